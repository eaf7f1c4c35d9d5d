-- Totals of each day, kept with the rows they count: figures of months are answered from a few of these.
CREATE TABLE `usage_day` (
  `id` {AUTO_KEY},
  `tenant_id` VARCHAR(32) NOT NULL,
  `day` BIGINT NOT NULL,
  `provider` VARCHAR(64) NOT NULL,
  `model` VARCHAR(255) NOT NULL,
  `key_id` VARCHAR(32) NOT NULL,
  `arm` VARCHAR(255) NOT NULL,
  `calls` INTEGER NOT NULL,
  `failures` INTEGER NOT NULL,
  `cancelled` INTEGER NOT NULL,
  `retries` INTEGER NOT NULL,
  `tool_calls` INTEGER NOT NULL,
  `estimated` INTEGER NOT NULL,
  `unpriced` INTEGER NOT NULL,
  `prompt_tokens` BIGINT NOT NULL,
  `completion_tokens` BIGINT NOT NULL,
  `cached_tokens` BIGINT NOT NULL,
  `reasoning_tokens` BIGINT NOT NULL,
  `billed_tokens` BIGINT NOT NULL,
  `cost_usd` DOUBLE NOT NULL,
  `durations` LONGTEXT NOT NULL,
  `first_tokens` LONGTEXT NOT NULL
);
-- Rounding half a day less is rounding down, which engines spell in ways of their own.
INSERT INTO `usage_day` (`tenant_id`, `day`, `provider`, `model`, `key_id`, `arm`, `calls`, `failures`, `cancelled`,
  `retries`, `tool_calls`, `estimated`, `unpriced`, `prompt_tokens`, `completion_tokens`, `cached_tokens`,
  `reasoning_tokens`, `billed_tokens`, `cost_usd`, `durations`, `first_tokens`)
SELECT `tenant_id`, ROUND((`create_time` - 43199999.5e0) / 86400000e0) * 86400000, MAX(`provider`), `model`, `key_id`, `arm`, COUNT(*),
  SUM(CASE WHEN `outcome` IN ('ok', 'cut_off', 'cancelled') THEN 0 ELSE 1 END),
  SUM(CASE WHEN `outcome` = 'cancelled' THEN 1 ELSE 0 END), SUM(`attempts` - 1), SUM(`tool_calls`),
  SUM(CASE WHEN `estimated` = 0 THEN 0 ELSE 1 END), SUM(CASE WHEN `cost_usd` IS NULL THEN 1 ELSE 0 END),
  SUM(`prompt_tokens`), SUM(`completion_tokens`), SUM(`cached_tokens`), SUM(`reasoning_tokens`),
  SUM(CASE WHEN `cost_usd` = 0 THEN 0 ELSE `prompt_tokens` + `completion_tokens` END),
  COALESCE(SUM(`cost_usd`), 0), '{}', '{}'
FROM `usage` GROUP BY `tenant_id`, ROUND((`create_time` - 43199999.5e0) / 86400000e0) * 86400000, `model`, `key_id`, `arm`;
CREATE UNIQUE INDEX `usage_day_tenant_id_day_model_key_id_arm` ON `usage_day` (`tenant_id`, `day`, `model`, `key_id`, `arm`);
-- Calls of a chat or a session are looked up by tenant and time.
CREATE INDEX `usage_tenant_id_create_time` ON `usage` (`tenant_id`, `create_time`);
DROP INDEX `usage_tenant_id` ON `usage`;
