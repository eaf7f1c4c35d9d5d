-- Chunks are looked up within their version. In order of content hashes, each insert went to a page of its own.
DROP INDEX `chunk_chunk_id` ON `chunk`;
