-- What a search for documents by words looks through: engines fold case each in their own way, so the name is kept folded.
ALTER TABLE `document` ADD COLUMN `name_fold` VARCHAR(512) NOT NULL DEFAULT '';
UPDATE `document` SET `name_fold` = LOWER(`name`);
-- An index change that fails waits its turn, and lets later ones pass.
ALTER TABLE `outbox` ADD COLUMN `attempts` INTEGER NOT NULL DEFAULT 0;
ALTER TABLE `outbox` ADD COLUMN `not_before` BIGINT NOT NULL DEFAULT 0;
