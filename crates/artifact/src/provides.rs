//! Whether a device may take an artifact, and what it provides afterwards: Mender's rules, as pure functions.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Info;

/// A condition of an artifact that a device does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("the artifact depends on {key} being {}, the device has {}", .wanted.join(" or "), .found.as_deref().unwrap_or("none"))]
pub struct Mismatch {
    /// The key that the device has to provide.
    pub key: String,
    /// The values of which one would do.
    pub wanted: Vec<String>,
    /// What the device provides instead.
    pub found: Option<String>,
}

/// The conditions of an artifact that a device does not meet; empty if it may install it.
/// `device` is what the device provides: its stored provides with `artifact_name`, perhaps
/// `artifact_group`, and `device_type`.
pub fn unmet(info: &Info, device: &BTreeMap<String, String>) -> Vec<Mismatch> {
    let global = [
        ("device_type", &info.depends.device_types),
        ("artifact_name", &info.depends.names),
        ("artifact_group", &info.depends.groups),
    ];
    let global = global.into_iter().filter(|(key, wanted)| *key == "device_type" || !wanted.is_empty());
    let payloads =
        info.payloads.iter().flat_map(|p| p.depends.iter().map(|(key, wanted)| (key.as_str(), wanted)));
    global
        .chain(payloads)
        .filter(|(key, wanted)| !device.get(*key).is_some_and(|found| wanted.contains(found)))
        .map(|(key, wanted)| Mismatch {
            key: key.to_owned(),
            wanted: wanted.clone(),
            found: device.get(key).cloned(),
        })
        .collect()
}

/// What a device provides after a payload was committed: stored keys that match a pattern of
/// `clears_provides` go, then the new ones come. Without that list everything stored goes, as Mender does
/// for artifacts that are older than the list. `device_type` is the device's own and never touched.
pub fn provides_after(info: &Info, stored: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let everything = ["*".to_owned()];
    let cleared = |key: &str| {
        info.payloads.iter().any(|payload| {
            let patterns = payload.clears_provides.as_deref().unwrap_or(&everything);
            patterns.iter().any(|pattern| matches(pattern, key))
        })
    };
    let mut after: BTreeMap<_, _> = stored
        .iter()
        .filter(|(key, _)| *key == "device_type" || !cleared(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    after.extend(info.all_provides());
    after
}

/// True if a pattern, in which `*` stands for any characters, matches the whole key. Linear in the
/// key for each `*`: the leftmost match of every part is as good as any other.
fn matches(pattern: &str, key: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == key;
    };
    let Some(mut rest) = key.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = tail.split('*').collect();
    let last = parts.pop().expect("split gives at least one part");
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, Depends, PayloadInfo, PayloadType, Signature};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn info(clears: Option<&[&str]>) -> Info {
        Info {
            format: 3,
            name: "release-2".into(),
            group: None,
            depends: Depends { device_types: vec!["board".into(), "other".into()], ..Depends::default() },
            scripts: Vec::new(),
            payloads: vec![PayloadInfo {
                kind: PayloadType::RootfsImage,
                provides: map(&[("rootfs-image.version", "release-2")]),
                depends: BTreeMap::from([("rootfs-image.checksum".into(), vec!["aa".into(), "bb".into()])]),
                clears_provides: clears.map(|list| list.iter().map(|p| (*p).to_owned()).collect()),
                meta_data: None,
                augmented: false,
                compression: None,
                compressed_size: None,
                files: Vec::new(),
            }],
            signature: Signature::Absent,
            manifest: volary_model::Digest::from_bytes([0; 32]),
            header_compression: Compression::None,
        }
    }

    #[test]
    fn conditions() {
        let ok = map(&[("device_type", "other"), ("rootfs-image.checksum", "bb")]);
        assert_eq!(unmet(&info(None), &ok), []);
        let wrong = unmet(&info(None), &map(&[("device_type", "x")]));
        assert_eq!(wrong.len(), 2);
        assert_eq!(
            wrong[0].to_string(),
            "the artifact depends on device_type being board or other, the device has x"
        );
        assert_eq!(wrong[1].found, None);
    }

    #[test]
    fn a_list_of_patterns_clears_what_matches() {
        let stored = map(&[
            ("artifact_name", "old"),
            ("app.version", "1"),
            ("rootfs-image.a", "1"),
            ("device_type", "b"),
        ]);
        let kept = provides_after(&info(Some(&["rootfs-image.*"])), &stored);
        let expected = [
            ("artifact_name", "release-2"),
            ("app.version", "1"),
            ("rootfs-image.version", "release-2"),
            ("device_type", "b"),
        ];
        assert_eq!(kept, map(&expected));
        let all_gone = provides_after(&info(None), &stored);
        assert!(!all_gone.contains_key("app.version"));
        assert!(provides_after(&info(Some(&[])), &stored).contains_key("rootfs-image.a"));
    }

    #[test]
    fn patterns() {
        for (pattern, key, expected) in [
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("*b*c", "abbc", true),
            ("*b*c", "acb", false),
            ("a*a", "a", false),
            ("**x", "x", true),
            ("a.b", "aXb", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} {key}");
        }
    }
}
