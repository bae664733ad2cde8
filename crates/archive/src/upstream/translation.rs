//! The translated descriptions of a publication, found by what a package says of its own.

use std::collections::{BTreeMap, HashMap};

use volary_debian::control::Paragraph;

use super::offered::{Offered, stanzas};

/// Descriptions by language, then by package and `Description-md5`.
#[derive(Debug, Default)]
pub(super) struct Translations<'a> {
    languages: BTreeMap<&'a str, HashMap<(String, String), &'a str>>,
}

impl<'a> Translations<'a> {
    /// Reads Translation indexes: language, path and text. What is no paragraph is left out: it is
    /// text for people.
    pub(super) fn read(indexes: &'a [(String, String, String)]) -> Self {
        let mut languages: BTreeMap<&str, HashMap<_, _>> = BTreeMap::new();
        for (language, _, text) in indexes {
            let known = languages.entry(language.as_str()).or_default();
            for stanza in stanzas(text) {
                if let Some(key) = key_of(stanza) {
                    known.insert(key, stanza);
                }
            }
        }
        Self { languages }
    }

    /// Those of a package, by language.
    pub(super) fn of(&self, package: &Offered<'_>) -> BTreeMap<String, Box<str>> {
        let Some(md5) = field(package.stanza, "Description-md5") else { return BTreeMap::new() };
        let key = (package.name.to_string(), md5.to_owned());
        let found = self.languages.iter().filter_map(|(language, known)| {
            // Read again and written, so that it has the form which indexes of ours have.
            let paragraph = Paragraph::parse(known.get(&key)?).ok()?;
            Some(((*language).to_owned(), paragraph.to_string().into()))
        });
        found.collect()
    }
}

fn key_of(stanza: &str) -> Option<(String, String)> {
    Some((field(stanza, "Package")?.to_owned(), field(stanza, "Description-md5")?.to_owned()))
}

/// A field of one line, without reading the others: there are 60,000 of them.
fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    let value = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_found_by_package_and_hash() {
        let text = "Package: hello\nDescription-md5: aa\nDescription-de: Gruß\n lang\n\n\
                    Package: other\nDescription-md5: aa\nDescription-de: anders\n\nno paragraph\n";
        let indexes = vec![("de".to_owned(), "Translation-de".to_owned(), text.to_owned())];
        let translations = Translations::read(&indexes);
        let check = |md5: &str, expected: Option<&str>| {
            let text = format!(
                "Package: hello\nVersion: 1\nArchitecture: all\nFilename: x\nSize: 1\nSHA256: {}\n{md5}",
                "a".repeat(64)
            );
            let offered = Offered::all(&text, "Packages").unwrap();
            let found = translations.of(&offered[0]);
            assert_eq!(found.get("de").map(|text| &**text), expected, "{md5}");
        };
        check(
            "Description-md5: aa\n",
            Some("Package: hello\nDescription-md5: aa\nDescription-de: Gruß\n lang\n"),
        );
        check("Description-md5: bb\n", None);
        check("", None);
    }
}
