-- What a call took in full, what it cost, for which key, and with which switched features.
ALTER TABLE `usage` ADD COLUMN `provider` VARCHAR(64) NOT NULL DEFAULT '';
ALTER TABLE `usage` ADD COLUMN `cached_tokens` INTEGER NOT NULL DEFAULT 0;
ALTER TABLE `usage` ADD COLUMN `cache_write_tokens` INTEGER NOT NULL DEFAULT 0;
ALTER TABLE `usage` ADD COLUMN `reasoning_tokens` INTEGER NOT NULL DEFAULT 0;
ALTER TABLE `usage` ADD COLUMN `tool_calls` INTEGER NOT NULL DEFAULT 0;
ALTER TABLE `usage` ADD COLUMN `cost_usd` DOUBLE;
ALTER TABLE `usage` ADD COLUMN `arm` VARCHAR(255) NOT NULL DEFAULT '';
ALTER TABLE `usage` ADD COLUMN `key_id` VARCHAR(32) NOT NULL DEFAULT '';
-- Models are named `<model>@<provider>`.
UPDATE `usage` SET `provider` = SUBSTR(`model`, INSTR(`model`, '@') + 1, 64);
