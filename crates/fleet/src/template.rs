//! The fleet repository that a new server begins with, and the collection in it.
//!
//! The files are in `templates/fleet` and `collections/` of the source tree and are built in. Not
//! here: making it a git repository and signing its first commit.

use std::path::Path;

use volary_host::FileError;

use crate::rules::{ARCHIVE_KEY_FILE, CA_FILE, SIGNERS_FILE};

/// What a new fleet repository is filled with.
#[derive(Debug, Clone)]
pub struct TemplateValues {
    /// The name of the fleet, for its people.
    pub fleet_name: String,
    /// The content of `.volary/allowed_signers`.
    pub signers: String,
    /// The archive's public OpenPGP key, armored.
    pub archive_key: String,
    /// The archive's URL, without a slash at its end: `https://SERVER/archive`.
    pub archive_url: String,
    /// The certificate of the server's own authority, PEM; `None` if a public one signed it.
    pub ca_certificate: Option<String>,
}

struct TemplateFile {
    path: &'static str,
    content: &'static str,
}

macro_rules! files {
    ($root:literal, $prefix:literal, $($path:literal),* $(,)?) => {
        &[$(TemplateFile {
            path: concat!($prefix, $path),
            content: include_str!(concat!($root, $path)),
        }),*]
    };
}

/// A test compares this list with the folder.
const FLEET: &[TemplateFile] = files!(
    "../../../templates/fleet/",
    "",
    ".gitignore",
    "README.md",
    "ansible.cfg",
    "group_vars/all.yml",
    "group_vars/canary.yml",
    "group_vars/development.yml",
    "group_vars/production.yml",
    "health/README.md",
    "health/required.d/10-packages",
    "health/wanted.d/10-disk",
    "inventory.yml",
    "site.yml",
    "volary.lock",
    "volary.yml",
);

/// A test compares this list with the folder.
const COLLECTION: &[TemplateFile] = files!(
    "../../../collections/ansible_collections/volary/fleet/",
    "collections/ansible_collections/volary/fleet/",
    "README.md",
    "galaxy.yml",
    "meta/runtime.yml",
    "plugins/inventory/host_files.py",
    "plugins/modules/apt_refresh.py",
    "plugins/modules/healthy_units.py",
    "plugins/modules/suite_versions.py",
    "roles/apt_source/defaults/main.yml",
    "roles/apt_source/meta/argument_specs.yml",
    "roles/apt_source/meta/main.yml",
    "roles/apt_source/tasks/main.yml",
    "roles/apt_source/tasks/present.yml",
    "roles/apt_source/templates/apt.conf.j2",
    "roles/apt_source/templates/volary.pref.j2",
    "roles/apt_source/templates/volary.sources.j2",
    "roles/apt_source/vars/main.yml",
    "roles/packages/defaults/main.yml",
    "roles/packages/meta/argument_specs.yml",
    "roles/packages/meta/main.yml",
    "roles/packages/tasks/main.yml",
    "roles/service_health/defaults/main.yml",
    "roles/service_health/meta/argument_specs.yml",
    "roles/service_health/meta/main.yml",
    "roles/service_health/tasks/main.yml",
);

/// Writes a new fleet repository's files into `dest`, which is made if it is not there.
///
/// # Errors
/// [`FileError`] with the path.
pub fn write_template(dest: &Path, values: &TemplateValues) -> Result<(), FileError> {
    for file in FLEET {
        let content = file
            .content
            .replace("@FLEET@", &values.fleet_name)
            .replace("@ARCHIVE_URL@", values.archive_url.trim_end_matches('/'));
        put(dest, file.path, &content)?;
    }
    put(dest, SIGNERS_FILE, &values.signers)?;
    put(dest, ARCHIVE_KEY_FILE, &values.archive_key)?;
    if let Some(certificate) = &values.ca_certificate {
        put(dest, CA_FILE, certificate)?;
    }
    write_collection(dest)
}

/// Writes only the collection `volary.fleet` below `dest`, over the one that is there: for a fleet
/// repository that goes on to a newer Volary.
///
/// # Errors
/// [`FileError`] with the path.
pub fn write_collection(dest: &Path) -> Result<(), FileError> {
    COLLECTION.iter().try_for_each(|file| put(dest, file.path, file.content))
}

fn put(dest: &Path, path: &str, content: &str) -> Result<(), FileError> {
    let full = dest.join(path);
    volary_host::create_dir(full.parent().expect("a file stands in a folder"))?;
    // Scripts are programs; everything else here is text.
    let mode = if content.starts_with("#!/bin/sh") { 0o755 } else { 0o644 };
    volary_host::write_atomic(&full, content.as_bytes(), mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{FileKind, Files, FolderFiles};
    use std::path::PathBuf;

    fn source(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    #[test]
    fn the_lists_are_the_folders() {
        let check = |folder: &str, prefix: &str, list: &[TemplateFile]| {
            let listed: Vec<&str> = list.iter().map(|file| file.path.strip_prefix(prefix).unwrap()).collect();
            let found = FolderFiles::new(&source(folder)).unwrap();
            let found: Vec<&String> =
                found.paths().iter().filter(|path| !path.contains("__pycache__")).collect();
            assert_eq!(found, listed);
        };
        check("templates/fleet", "", FLEET);
        let collection = "collections/ansible_collections/volary/fleet";
        check(collection, &format!("{collection}/"), COLLECTION);
    }

    #[test]
    fn scripts_are_programs() {
        let dir = tempfile::tempdir().unwrap();
        let values = TemplateValues {
            fleet_name: "Meters".into(),
            signers: "x".into(),
            archive_key: "y".into(),
            archive_url: "https://fleet.example/archive/".into(),
            ca_certificate: Some("z".into()),
        };
        write_template(dir.path(), &values).unwrap();
        let files = FolderFiles::new(dir.path()).unwrap();
        assert_eq!(files.kind("health/required.d/10-packages"), Some(FileKind::Executable));
        assert_eq!(files.kind("site.yml"), Some(FileKind::File));
        let all = String::from_utf8(files.read("group_vars/all.yml").unwrap().unwrap()).unwrap();
        assert!(all.contains("\"https://fleet.example/archive\""), "{all}");
        for path in files.paths() {
            let text = String::from_utf8(files.read(path).unwrap().unwrap()).unwrap();
            assert!(!text.contains("@FLEET@") && !text.contains("@ARCHIVE_URL@"), "{path}");
        }
    }
}
