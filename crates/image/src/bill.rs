//! What is in an image, for people and programs: the list of packages, and a bill of materials in
//! SPDX 2.3.

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use volary_debian::control::Paragraphs;
use volary_model::Digest;

use crate::error::BuildError;

/// A package in the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstalledPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The source package that it was built from.
    pub source: String,
    /// That one's version.
    pub source_version: String,
    /// Who answers for it.
    pub maintainer: String,
    /// Where its authors live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
}

/// The packages that dpkg's status file calls installed, by name.
pub(crate) fn installed(status: &str) -> Result<Vec<InstalledPackage>, BuildError> {
    let mut packages = Vec::new();
    for paragraph in Paragraphs::new(status) {
        let paragraph = paragraph.map_err(|error| BuildError::Packages(error.to_string()))?;
        let field = |name: &str| paragraph.get(name).unwrap_or_default().to_owned();
        if !field("Status").ends_with(" installed") {
            continue;
        }
        let (name, version) = (field("Package"), field("Version"));
        // "Source: glibc (2.36-9)": the version only where it differs.
        let source = field("Source");
        let (source, source_version) = match source.split_once(" (") {
            Some((source, version)) => (source.to_owned(), version.trim_end_matches(')').to_owned()),
            None if source.is_empty() => (name.clone(), version.clone()),
            None => (source, version.clone()),
        };
        packages.push(InstalledPackage {
            name,
            version,
            architecture: field("Architecture"),
            source,
            source_version,
            maintainer: field("Maintainer"),
            homepage: paragraph.get("Homepage").map(str::to_owned),
        });
    }
    packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
    Ok(packages)
}

/// One line for each package: name, architecture, version.
pub(crate) fn list(packages: &[InstalledPackage]) -> String {
    packages.iter().map(|p| format!("{}:{} {}\n", p.name, p.architecture, p.version)).collect()
}

/// Of what a bill speaks.
pub(crate) struct Subject<'a> {
    pub name: &'a str,
    pub suite: &'a str,
    pub rootfs: Digest,
    pub created: &'a str,
    pub maker: &'a str,
}

/// The bill of materials.
pub(crate) fn spdx(packages: &[InstalledPackage], subject: &Subject<'_>) -> Value {
    let image = "SPDXRef-Image";
    let id = |package: &InstalledPackage| {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
        let name: String = package.name.chars().map(plain).collect();
        // Names that differ only in a plus sign are told apart by their sum.
        let sum =
            Digest::from_bytes(Sha256::digest(format!("{}:{}", package.name, package.architecture)).into());
        format!("SPDXRef-{name}-{}", &sum.hex()[..8])
    };
    let described = packages.iter().map(|package| {
        let InstalledPackage { name, version, architecture, source, source_version, maintainer, homepage } = package;
        let purl = format!(
            "pkg:deb/debian/{}@{}?arch={architecture}&distro={}",
            escaped(name),
            escaped(version),
            subject.suite
        );
        json!({
            "SPDXID": id(package),
            "name": name,
            "versionInfo": version,
            "supplier": if maintainer.is_empty() { "NOASSERTION".to_owned() } else { format!("Organization: {maintainer}") },
            "sourceInfo": format!("built from the source package {source} {source_version}"),
            "downloadLocation": "NOASSERTION",
            "homepage": homepage.as_deref().unwrap_or("NOASSERTION"),
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "primaryPackagePurpose": "LIBRARY",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl,
            }],
        })
    });
    let whole = json!({
        "SPDXID": image,
        "name": subject.name,
        "versionInfo": subject.name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "checksums": [{ "algorithm": "SHA256", "checksumValue": subject.rootfs.hex() }],
    });
    let all: Vec<Value> = std::iter::once(whole).chain(described).collect();
    let relations: Vec<Value> = std::iter::once(json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": image,
    }))
    .chain(packages.iter().map(|package| {
        json!({ "spdxElementId": image, "relationshipType": "CONTAINS", "relatedSpdxElement": id(package) })
    }))
    .collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": format!("urn:volary:image:sha256:{}", subject.rootfs.hex()),
        "creationInfo": { "created": subject.created, "creators": [format!("Tool: {}", subject.maker)] },
        "packages": all,
        "relationships": relations,
    })
}

/// What a package URL may not hold as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: libstdc++6\nStatus: install ok installed\nArchitecture: amd64\n\
                          Source: gcc-12 (12.2.0-14)\nVersion: 1:12.2.0-14+b1\nMaintainer: GCC <g@example.org>\n\n\
                          Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                          Package: adduser\nStatus: install ok installed\nArchitecture: all\nVersion: 3.134\n";

    #[test]
    fn what_is_installed_is_listed() {
        let packages = installed(STATUS).unwrap();
        assert_eq!(list(&packages), "adduser:all 3.134\nlibstdc++6:amd64 1:12.2.0-14+b1\n");
        assert_eq!(
            (packages[1].source.as_str(), packages[1].source_version.as_str()),
            ("gcc-12", "12.2.0-14")
        );
        assert_eq!((packages[0].source.as_str(), packages[0].source_version.as_str()), ("adduser", "3.134"));
        let subject = Subject {
            name: "qemu-amd64 1",
            suite: "bookworm",
            rootfs: Digest::from_bytes([1; 32]),
            created: "2026-01-01T00:00:00Z",
            maker: "volary-0",
        };
        let bill = spdx(&packages, &subject);
        let purl = &bill["packages"][2]["externalRefs"][0]["referenceLocator"];
        assert_eq!(purl, "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bb1?arch=amd64&distro=bookworm");
        assert_eq!(bill["relationships"].as_array().unwrap().len(), 3);
        assert_eq!(bill["packages"][1]["SPDXID"], bill["relationships"][1]["relatedSpdxElement"]);
    }
}
