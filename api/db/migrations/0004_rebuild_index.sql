-- `parley index rebuild`: which place is filled anew, and how far each version is.
CREATE TABLE `index_rebuild` (
  `id` VARCHAR(32) NOT NULL PRIMARY KEY,
  `create_time` BIGINT NOT NULL,
  `update_time` BIGINT NOT NULL,
  `tenant_id` VARCHAR(32) NOT NULL,
  `old_place` VARCHAR(96) NOT NULL,
  `new_place` VARCHAR(96) NOT NULL,
  `embedding_model` VARCHAR(255) NOT NULL,
  `dim` INTEGER NOT NULL,
  `made_for` VARCHAR(255) NOT NULL,
  `state` VARCHAR(16) NOT NULL,
  `lease_owner` VARCHAR(64),
  `lease_until` BIGINT NOT NULL,
  `drop_at` BIGINT NOT NULL
);
CREATE INDEX `index_rebuild_create_time` ON `index_rebuild` (`create_time`);
CREATE INDEX `index_rebuild_tenant_id` ON `index_rebuild` (`tenant_id`);
CREATE TABLE `rebuilt_version` (
  `rebuild_id` VARCHAR(32) NOT NULL,
  `version_id` VARCHAR(32) NOT NULL,
  `document_id` VARCHAR(32) NOT NULL,
  `chunk_cursor` VARCHAR(16) NOT NULL,
  `chunks` INTEGER NOT NULL,
  `state` VARCHAR(16) NOT NULL,
  PRIMARY KEY (`rebuild_id`, `version_id`)
);
CREATE INDEX `rebuilt_version_document_id` ON `rebuilt_version` (`document_id`);
