-- The SHA-256 of the artifact's manifest; NULL for images that came before it was noted.
ALTER TABLE images ADD COLUMN manifest TEXT;
