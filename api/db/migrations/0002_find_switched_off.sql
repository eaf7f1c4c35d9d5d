-- Each search asks which documents are switched off: without this, all rows of the datasets were read.
CREATE INDEX `document_dataset_id_enabled_live_version` ON `document` (`dataset_id`, `enabled`, `live_version`);
