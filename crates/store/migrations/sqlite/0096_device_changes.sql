-- Which devices changed, in order, so that who keeps them in memory reads only those. Signs of life do not
-- count: they have a table of their own, since each comes each minute and a device's row is long.

CREATE TABLE device_changes (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT    NOT NULL UNIQUE
);
INSERT INTO device_changes (name) SELECT name FROM devices;

CREATE TRIGGER device_came AFTER INSERT ON devices BEGIN
    DELETE FROM device_changes WHERE name = NEW.name;
    INSERT INTO device_changes (name) VALUES (NEW.name);
END;
CREATE TRIGGER device_changed AFTER UPDATE ON devices BEGIN
    DELETE FROM device_changes WHERE name = NEW.name;
    INSERT INTO device_changes (name) VALUES (NEW.name);
END;
CREATE TRIGGER device_was_renamed AFTER UPDATE OF name ON devices WHEN OLD.name <> NEW.name BEGIN
    DELETE FROM device_changes WHERE name = OLD.name;
    INSERT INTO device_changes (name) VALUES (OLD.name);
END;
CREATE TRIGGER device_went AFTER DELETE ON devices BEGIN
    DELETE FROM device_changes WHERE name = OLD.name;
    INSERT INTO device_changes (name) VALUES (OLD.name);
END;

CREATE TABLE device_seen (
    name TEXT   NOT NULL PRIMARY KEY REFERENCES devices (name) ON UPDATE CASCADE ON DELETE CASCADE,
    at   BIGINT NOT NULL
) WITHOUT ROWID;
