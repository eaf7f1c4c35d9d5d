-- Tenants' own logins at model providers, their models there, and a number that goes up with each change.
CREATE TABLE `tenant_llm` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `provider` VARCHAR(64) NOT NULL,
  `provider_norm` VARCHAR(64) NOT NULL,
  `model` VARCHAR(255) NOT NULL,
  `model_norm` VARCHAR(255) NOT NULL,
  `kind` VARCHAR(16) NOT NULL,
  `sealed_key` LONGTEXT NOT NULL,
  `base_url` VARCHAR(1024) NOT NULL,
  `max_tokens` INTEGER NOT NULL,
  `enabled` SMALLINT NOT NULL
);
CREATE INDEX `tenant_llm_create_time` ON `tenant_llm` (`create_time`);
CREATE UNIQUE INDEX `tenant_llm_tenant_id_provider_norm_model_norm_kind` ON `tenant_llm` (`tenant_id`, `provider_norm`, `model_norm`, `kind`);
CREATE TABLE `tenant_llm_change` (
  `id` INTEGER NOT NULL PRIMARY KEY,
  `number` BIGINT NOT NULL
);
