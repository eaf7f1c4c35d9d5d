CREATE TABLE `schema_migration` (
  `number` INTEGER NOT NULL PRIMARY KEY,
  `applied_at` BIGINT NOT NULL
);
CREATE TABLE `tenant` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `llm_id` VARCHAR(255) NOT NULL,
  `embd_id` VARCHAR(255) NOT NULL,
  `rerank_id` VARCHAR(255) NOT NULL,
  `asr_id` VARCHAR(255) NOT NULL,
  `img2txt_id` VARCHAR(255) NOT NULL,
  `tts_id` VARCHAR(255) NOT NULL
);
CREATE INDEX `tenant_create_time` ON `tenant` (`create_time`);
CREATE TABLE `user` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `email` VARCHAR(255) NOT NULL,
  `email_norm` VARCHAR(255) NOT NULL,
  `nickname` VARCHAR(255) NOT NULL,
  `password_hash` VARCHAR(255) NOT NULL,
  `login_secret_hash` VARCHAR(64),
  `avatar` LONGTEXT,
  `language` VARCHAR(32) NOT NULL,
  `color_schema` VARCHAR(32) NOT NULL,
  `timezone` VARCHAR(64) NOT NULL,
  `last_login_time` BIGINT,
  `is_active` SMALLINT NOT NULL,
  `is_superuser` SMALLINT NOT NULL
);
CREATE INDEX `user_create_time` ON `user` (`create_time`);
CREATE UNIQUE INDEX `user_email_norm` ON `user` (`email_norm`);
CREATE TABLE `api_token` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `token_hash` VARCHAR(64) NOT NULL,
  `share_hash` VARCHAR(64),
  `hint` VARCHAR(32) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `revoked_at` BIGINT
);
CREATE INDEX `api_token_create_time` ON `api_token` (`create_time`);
CREATE INDEX `api_token_tenant_id` ON `api_token` (`tenant_id`);
CREATE UNIQUE INDEX `api_token_token_hash` ON `api_token` (`token_hash`);
CREATE UNIQUE INDEX `api_token_share_hash` ON `api_token` (`share_hash`);
CREATE TABLE `index_place` (
  `name` VARCHAR(96) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `embedding_model` VARCHAR(255) NOT NULL,
  `dim` INTEGER NOT NULL
);
CREATE INDEX `index_place_create_time` ON `index_place` (`create_time`);
CREATE INDEX `index_place_tenant_id` ON `index_place` (`tenant_id`);
CREATE TABLE `dataset` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `created_by` VARCHAR(32) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `name_norm` VARCHAR(255) NOT NULL,
  `avatar` LONGTEXT,
  `description` LONGTEXT,
  `language` VARCHAR(32) NOT NULL,
  `embedding_model` VARCHAR(255) NOT NULL,
  `permission` VARCHAR(16) NOT NULL,
  `chunk_method` VARCHAR(32) NOT NULL,
  `parser_config` LONGTEXT NOT NULL,
  `pagerank` INTEGER NOT NULL,
  `similarity_threshold` DOUBLE NOT NULL,
  `vector_similarity_weight` DOUBLE NOT NULL,
  `document_count` INTEGER NOT NULL,
  `chunk_count` INTEGER NOT NULL,
  `token_count` BIGINT NOT NULL,
  `place` VARCHAR(96) NOT NULL
);
CREATE INDEX `dataset_create_time` ON `dataset` (`create_time`);
CREATE INDEX `dataset_tenant_id` ON `dataset` (`tenant_id`);
CREATE UNIQUE INDEX `dataset_tenant_id_name_norm` ON `dataset` (`tenant_id`, `name_norm`);
CREATE TABLE `document` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `dataset_id` VARCHAR(32) NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `created_by` VARCHAR(32) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `location` VARCHAR(768) NOT NULL,
  `suffix` VARCHAR(255) NOT NULL,
  `type` VARCHAR(16) NOT NULL,
  `size` BIGINT NOT NULL,
  `sha256` VARCHAR(64) NOT NULL,
  `blob_key` VARCHAR(128) NOT NULL,
  `chunk_method` VARCHAR(32) NOT NULL,
  `parser_config` LONGTEXT NOT NULL,
  `source_type` VARCHAR(32) NOT NULL,
  `run` VARCHAR(16) NOT NULL,
  `progress` DOUBLE NOT NULL,
  `progress_msg` LONGTEXT NOT NULL,
  `process_begin_at` BIGINT,
  `process_duration` DOUBLE NOT NULL,
  `chunk_count` INTEGER NOT NULL,
  `token_count` BIGINT NOT NULL,
  `meta_fields` LONGTEXT NOT NULL,
  `enabled` SMALLINT NOT NULL,
  `live_version` VARCHAR(32)
);
CREATE INDEX `document_create_time` ON `document` (`create_time`);
CREATE INDEX `document_dataset_id` ON `document` (`dataset_id`);
CREATE INDEX `document_blob_key` ON `document` (`blob_key`);
CREATE UNIQUE INDEX `document_dataset_id_name` ON `document` (`dataset_id`, `name`);
CREATE INDEX `document_dataset_id_create_time` ON `document` (`dataset_id`, `create_time`);
CREATE TABLE `document_version` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `document_id` VARCHAR(32) NOT NULL,
  `dataset_id` VARCHAR(32) NOT NULL,
  `place` VARCHAR(96) NOT NULL,
  `state` VARCHAR(16) NOT NULL
);
CREATE INDEX `document_version_create_time` ON `document_version` (`create_time`);
CREATE INDEX `document_version_document_id` ON `document_version` (`document_id`);
CREATE INDEX `document_version_place` ON `document_version` (`place`);
CREATE TABLE `chunk` (
  `document_id` VARCHAR(32) NOT NULL,
  `version_id` VARCHAR(32) NOT NULL,
  `chunk_id` VARCHAR(16) NOT NULL,
  `dataset_id` VARCHAR(32) NOT NULL,
  `ordinal` INTEGER NOT NULL,
  `content` LONGTEXT NOT NULL,
  `heading_path` LONGTEXT NOT NULL,
  `positions` LONGTEXT NOT NULL,
  `page` INTEGER,
  `top` DOUBLE NOT NULL,
  `token_count` INTEGER NOT NULL,
  `important_keywords` LONGTEXT NOT NULL,
  `questions` LONGTEXT NOT NULL,
  `available` SMALLINT NOT NULL,
  `image_id` VARCHAR(128) NOT NULL,
  `kind` VARCHAR(16) NOT NULL,
  `create_time` BIGINT NOT NULL,
  PRIMARY KEY (`version_id`, `chunk_id`)
);
CREATE INDEX `chunk_dataset_id` ON `chunk` (`dataset_id`);
CREATE INDEX `chunk_document_id_version_id_ordinal` ON `chunk` (`document_id`, `version_id`, `ordinal`);
CREATE INDEX `chunk_chunk_id` ON `chunk` (`chunk_id`);
CREATE TABLE `task` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `document_id` VARCHAR(32) NOT NULL,
  `dataset_id` VARCHAR(32) NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `version_id` VARCHAR(32) NOT NULL,
  `state` VARCHAR(16) NOT NULL,
  `priority` INTEGER NOT NULL,
  `attempts` INTEGER NOT NULL,
  `parser_deaths` INTEGER NOT NULL,
  `lease_owner` VARCHAR(64),
  `lease_until` BIGINT NOT NULL,
  `not_before` BIGINT NOT NULL,
  `stage` VARCHAR(16) NOT NULL,
  `pages_done` INTEGER NOT NULL,
  `pages_total` INTEGER NOT NULL,
  `chunks_done` INTEGER NOT NULL,
  `chunks_total` INTEGER NOT NULL,
  `last_error` LONGTEXT NOT NULL
);
CREATE INDEX `task_create_time` ON `task` (`create_time`);
CREATE INDEX `task_document_id` ON `task` (`document_id`);
CREATE INDEX `task_state_not_before_priority_create_time` ON `task` (`state`, `not_before`, `priority`, `create_time`);
CREATE TABLE `outbox` (
  `id` {AUTO_KEY},
  `place` VARCHAR(96) NOT NULL,
  `action` VARCHAR(32) NOT NULL,
  `payload` LONGTEXT NOT NULL,
  `create_time` BIGINT NOT NULL
);
CREATE TABLE `blob_garbage` (
  `blob_key` VARCHAR(128) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL
);
CREATE TABLE `dialog` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `live_name` VARCHAR(255),
  `description` LONGTEXT NOT NULL,
  `icon` LONGTEXT NOT NULL,
  `language` VARCHAR(32) NOT NULL,
  `llm_id` VARCHAR(255) NOT NULL,
  `llm_setting` LONGTEXT NOT NULL,
  `prompt_type` VARCHAR(16) NOT NULL,
  `prompt_config` LONGTEXT NOT NULL,
  `meta_data_filter` LONGTEXT NOT NULL,
  `similarity_threshold` DOUBLE NOT NULL,
  `vector_similarity_weight` DOUBLE NOT NULL,
  `top_n` INTEGER NOT NULL,
  `top_k` INTEGER NOT NULL,
  `do_refer` VARCHAR(1) NOT NULL,
  `rerank_id` VARCHAR(255) NOT NULL,
  `dataset_ids` LONGTEXT NOT NULL,
  `status` VARCHAR(1) NOT NULL
);
CREATE INDEX `dialog_create_time` ON `dialog` (`create_time`);
CREATE INDEX `dialog_tenant_id` ON `dialog` (`tenant_id`);
CREATE UNIQUE INDEX `dialog_tenant_id_live_name` ON `dialog` (`tenant_id`, `live_name`);
CREATE TABLE `conversation` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `dialog_id` VARCHAR(32) NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `user_id` VARCHAR(255) NOT NULL
);
CREATE INDEX `conversation_create_time` ON `conversation` (`create_time`);
CREATE INDEX `conversation_dialog_id` ON `conversation` (`dialog_id`);
CREATE TABLE `message` (
  `id` {AUTO_KEY},
  `conversation_id` VARCHAR(32) NOT NULL,
  `turn` INTEGER NOT NULL,
  `role` VARCHAR(16) NOT NULL,
  `message_id` VARCHAR(36),
  `content` LONGTEXT NOT NULL,
  `status` VARCHAR(16) NOT NULL,
  `reference` LONGTEXT,
  `prompt` LONGTEXT NOT NULL,
  `error` LONGTEXT NOT NULL,
  `thumbup` SMALLINT,
  `feedback` LONGTEXT,
  `created_at` DOUBLE NOT NULL
);
CREATE INDEX `message_message_id` ON `message` (`message_id`);
CREATE INDEX `message_status` ON `message` (`status`);
CREATE UNIQUE INDEX `message_conversation_id_turn_role` ON `message` (`conversation_id`, `turn`, `role`);
CREATE TABLE `usage` (
  `id` {AUTO_KEY},
  `tenant_id` VARCHAR(32) NOT NULL,
  `dialog_id` VARCHAR(32),
  `conversation_id` VARCHAR(32),
  `message_id` VARCHAR(36),
  `model` VARCHAR(255) NOT NULL,
  `purpose` VARCHAR(32) NOT NULL,
  `prompt_tokens` INTEGER NOT NULL,
  `completion_tokens` INTEGER NOT NULL,
  `estimated` SMALLINT NOT NULL,
  `first_token_ms` DOUBLE,
  `duration_ms` DOUBLE NOT NULL,
  `attempts` INTEGER NOT NULL,
  `outcome` VARCHAR(32) NOT NULL,
  `create_time` BIGINT NOT NULL
);
CREATE INDEX `usage_tenant_id` ON `usage` (`tenant_id`);
CREATE INDEX `usage_create_time` ON `usage` (`create_time`);
