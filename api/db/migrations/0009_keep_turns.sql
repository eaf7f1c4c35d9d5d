-- A session's own model, who made it, and whether its first answer names it.
ALTER TABLE `conversation` ADD COLUMN `llm_id` VARCHAR(255) NOT NULL DEFAULT '';
ALTER TABLE `conversation` ADD COLUMN `source` VARCHAR(16) NOT NULL DEFAULT 'api';
ALTER TABLE `conversation` ADD COLUMN `auto_title` SMALLINT NOT NULL DEFAULT 0;
-- What made an answer, how long its steps took, what its call had set, and which server makes it.
ALTER TABLE `message` ADD COLUMN `model` VARCHAR(255) NOT NULL DEFAULT '';
ALTER TABLE `message` ADD COLUMN `timings` LONGTEXT;
ALTER TABLE `message` ADD COLUMN `asked_with` LONGTEXT;
ALTER TABLE `message` ADD COLUMN `server_id` VARCHAR(96) NOT NULL DEFAULT '';
CREATE TABLE `conversation_summary` (
  `id` {AUTO_KEY},
  `conversation_id` VARCHAR(32) NOT NULL,
  `turn` INTEGER NOT NULL,
  `message_id` VARCHAR(36) NOT NULL,
  `content` LONGTEXT NOT NULL,
  `create_time` BIGINT NOT NULL
);
CREATE UNIQUE INDEX `conversation_summary_conversation_id_turn` ON `conversation_summary` (`conversation_id`, `turn`);
CREATE TABLE `answer_server` (
  `id` VARCHAR(96) NOT NULL PRIMARY KEY,
  `lease_until` BIGINT NOT NULL
);
-- What each step of an answer took; calls are looked up by the message they were made for.
ALTER TABLE `usage` ADD COLUMN `steps` LONGTEXT;
CREATE INDEX `usage_message_id` ON `usage` (`message_id`);
