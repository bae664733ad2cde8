//! Which image a device gets when it asks: the one that its stage pins, by the way that suits it best,
//! unless it has it, had trouble with it, or may not change.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use volary_fleet::LockedImage;
use volary_model::{DeviceType, Digest};
use volary_plan::text;
use volary_store::{Deployment, DeploymentState, Image};

use crate::images::ROOTFS_CHECKSUM;

/// The update module that every client has.
const ROOTFS_IMAGE: &str = "rootfs-image";

/// How long to wait after the first download that failed; each further one doubles it.
const AFTER_DOWNLOAD: Duration = Duration::from_secs(300);

/// A device that asks.
pub(crate) struct Asking<'a> {
    /// What it has.
    pub(crate) provides: &'a BTreeMap<String, String>,
    /// The update modules that it has, if its inventory tells.
    pub(crate) modules: &'a [String],
    /// Its deployments, newest first.
    pub(crate) history: &'a [Deployment],
}

/// What there is to answer with.
pub(crate) struct Offer<'a> {
    /// What its stage pins for its type.
    pub(crate) pinned: Option<&'a LockedImage>,
    /// Its type, if that is a name that could be pinned.
    pub(crate) device_type: Option<&'a DeviceType>,
    /// The images that the server has.
    pub(crate) images: &'a [Image],
    /// Why nothing may begin now, if so.
    pub(crate) closed: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// It has what its stage wants.
    Content,
    /// It gets nothing now; why.
    Wait(String),
    /// It gets this artifact, as a new deployment.
    Begin(Digest),
    /// It gets the same again.
    Again(Box<Deployment>),
    /// First this deployment is over: it runs the image, and never said so.
    Arrived(Box<Deployment>),
    /// First this deployment is over: what the device has changed under it, so it lost what it knew.
    Lost(Box<Deployment>),
    /// First this deployment is called back: its stage pins something else.
    Replaced(Box<Deployment>),
}

/// Decides what a device gets.
pub(crate) fn next(asking: &Asking<'_>, offer: &Offer<'_>, now: Timestamp) -> Next {
    let name = asking.provides.get("artifact_name").map_or("", String::as_str);
    if let Some(open) = asking.history.first().filter(|newest| !newest.state.is_over()) {
        let boxed = || Box::new(open.clone());
        if open.name.as_str() == name {
            return Next::Arrived(boxed());
        }
        if open.provides != *asking.provides {
            return Next::Lost(boxed());
        }
        if offer.pinned.is_none_or(|pinned| pinned.artifact != open.artifact) {
            return Next::Replaced(boxed());
        }
        if offer.images.iter().any(|image| image.artifact == open.served) {
            return Next::Again(boxed());
        }
        return Next::Wait(missing(&open.name));
    }
    let Some(pinned) = offer.pinned else { return Next::Content };
    if pinned.name.as_str() == name {
        let other = asking.provides.get(ROOTFS_CHECKSUM).filter(|sum| **sum != pinned.rootfs.hex());
        return other.map_or(Next::Content, |sum| Next::Wait(impostor(pinned, sum)));
    }
    if let Some(why) = trouble(asking.history, pinned, now) {
        return Next::Wait(why);
    }
    if let Some(why) = &offer.closed {
        return Next::Wait(why.clone());
    }
    if !offer.images.iter().any(|image| image.artifact == pinned.artifact) {
        return Next::Wait(missing(&pinned.name));
    }
    match best(asking, offer, pinned) {
        Ok(artifact) => Next::Begin(artifact),
        Err(why) => Next::Wait(why),
    }
}

/// Its client refuses what has the name that it runs, so it cannot be helped from here.
fn impostor(pinned: &LockedImage, sum: &str) -> String {
    format!(
        "it runs another image that is called {} too, with the root file system {sum} and not {}; give the \
         pinned one a name of its own",
        pinned.name,
        pinned.rootfs.hex()
    )
}

fn missing(name: &volary_model::ImageName) -> String {
    format!("the server does not have the image {name}; publish it with: volary image publish FILE")
}

/// How often the pinned artifact could not be fetched, in a row.
pub(crate) fn failed_downloads(history: &[Deployment], artifact: &Digest) -> usize {
    let counts = |past: &&Deployment| past.artifact == *artifact && past.state.is_over() && !past.released;
    let of_it = history.iter().filter(counts);
    of_it.take_while(|past| past.state == DeploymentState::Failure && !past.held).count()
}

/// Why an image that is pinned is not tried, if earlier attempts say so.
fn trouble(history: &[Deployment], pinned: &LockedImage, now: Timestamp) -> Option<String> {
    let mut of_it = history.iter().filter(|past| past.artifact == pinned.artifact && !past.released);
    if let Some(held) = of_it.clone().find(|past| past.held) {
        let what = match held.state {
            DeploymentState::Aborted => format!("was called back: {}", held.substate),
            _ if held.furthest < DeploymentState::Installing => "could not be fetched".to_owned(),
            _ => "failed on it".to_owned(),
        };
        return Some(format!(
            "image {} {what}; it is not tried again before: volary device retry NAME",
            pinned.name
        ));
    }
    let last = of_it.next().filter(|last| last.state == DeploymentState::Failure)?;
    let failures = failed_downloads(history, &pinned.artifact);
    let wait = AFTER_DOWNLOAD * 2u32.saturating_pow(u32::try_from(failures.saturating_sub(1)).unwrap_or(0));
    let passed = Duration::try_from(now.duration_since(last.changed_at)).unwrap_or_default();
    let left = wait.checked_sub(passed).filter(|left| !left.is_zero())?;
    Some(format!("image {} could not be fetched; it is tried again in {}", pinned.name, text::duration(left)))
}

/// The artifact that leads to the pinned image with the least to fetch: of those whose conditions the device
/// meets, the one with the most conditions, and of these the smallest.
fn best(asking: &Asking<'_>, offer: &Offer<'_>, pinned: &LockedImage) -> Result<Digest, String> {
    let leads = |image: &&Image| {
        image.artifact == pinned.artifact
            || (image.name == pinned.name
                && image.rootfs == pinned.rootfs
                && offer.device_type.is_some_and(|name| image.device_types.contains(name)))
    };
    let suits = |image: &&Image| {
        unmet(image, asking.provides).is_none()
            && (image.kind == ROOTFS_IMAGE || asking.modules.contains(&image.kind))
    };
    let candidates: Vec<&Image> = offer.images.iter().filter(leads).collect();
    let found = candidates.iter().copied().filter(suits).max_by_key(|image| {
        // The digest last, so that the answer never depends on the order of records.
        (image.depends.len(), Reverse(image.size), image.artifact)
    });
    found.map(|image| image.artifact).ok_or_else(|| {
        let whole = candidates.iter().find(|image| image.artifact == pinned.artifact);
        let why = whole.and_then(|image| unmet(image, asking.provides));
        let why = why.unwrap_or_else(|| "the device lacks its update module".to_owned());
        format!("image {} cannot be installed: {why}", pinned.name)
    })
}

/// The first condition of an artifact that a device does not meet.
fn unmet(image: &Image, provides: &BTreeMap<String, String>) -> Option<String> {
    image.depends.iter().find_map(|(key, values)| {
        let has = provides.get(key);
        if has.is_some_and(|has| values.contains(has)) {
            return None;
        }
        let has = has.map_or("none", String::as_str);
        Some(format!("it needs {key} {}, and the device has {has}", values.join(" or ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mender::deployment::tests::deployment;

    fn provides(name: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = [("artifact_name", name), ("device_type", "testboard")];
        own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn image(number: u8, kind: &str, size: u64, depends: &[(&str, &str)]) -> Image {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), vec![(*value).to_owned()]);
        Image {
            artifact: Digest::from_bytes([number; 32]),
            size,
            name: "release-2".parse().unwrap(),
            device_types: vec!["testboard".parse().unwrap()],
            rootfs: Digest::from_bytes([9; 32]),
            manifest: None,
            rootfs_size: (kind == ROOTFS_IMAGE).then_some(100),
            kind: kind.into(),
            provides: BTreeMap::new(),
            depends: depends.iter().map(pair).collect(),
            signed_by: None,
            published_at: Timestamp::UNIX_EPOCH,
            published_by: "ada".into(),
            wanted_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn pinned() -> LockedImage {
        LockedImage {
            name: "release-2".parse().unwrap(),
            artifact: Digest::from_bytes([2; 32]),
            size: 80,
            rootfs: Digest::from_bytes([9; 32]),
            manifest: None,
        }
    }

    struct Case {
        provides: BTreeMap<String, String>,
        history: Vec<Deployment>,
        images: Vec<Image>,
        pinned: Option<LockedImage>,
        closed: Option<String>,
        now: i64,
    }

    impl Default for Case {
        fn default() -> Self {
            Self {
                provides: provides("release-1", &[]),
                history: Vec::new(),
                images: vec![image(2, ROOTFS_IMAGE, 80, &[])],
                pinned: Some(pinned()),
                closed: None,
                now: 0,
            }
        }
    }

    fn ask(case: &Case) -> Next {
        let device_type: DeviceType = "testboard".parse().unwrap();
        let modules = ["mender-binary-delta".to_owned()];
        next(
            &Asking { provides: &case.provides, modules: &modules, history: &case.history },
            &Offer {
                pinned: case.pinned.as_ref(),
                device_type: Some(&device_type),
                images: &case.images,
                closed: case.closed.clone(),
            },
            Timestamp::from_second(case.now).unwrap(),
        )
    }

    fn whole() -> Next {
        Next::Begin(Digest::from_bytes([2; 32]))
    }

    #[test]
    fn a_device_gets_what_is_pinned_and_only_once() {
        assert_eq!(ask(&Case::default()), whole());
        assert_eq!(ask(&Case { pinned: None, ..Case::default() }), Next::Content);
        assert_eq!(ask(&Case { provides: provides("release-2", &[]), ..Case::default() }), Next::Content);
        let sum = |sum: &str| Case {
            provides: provides("release-2", &[(ROOTFS_CHECKSUM, sum)]),
            ..Case::default()
        };
        assert_eq!(ask(&sum(&"09".repeat(32))), Next::Content);
        assert!(
            matches!(ask(&sum("77")), Next::Wait(why) if why.contains("another image that is called release-2"))
        );
        let closed = Some("the stage is stopped".to_owned());
        assert_eq!(ask(&Case { closed, ..Case::default() }), Next::Wait("the stage is stopped".into()));
        let Next::Wait(why) = ask(&Case { images: vec![], ..Case::default() }) else { panic!() };
        assert!(why.contains("does not have the image release-2"), "{why}");
    }

    #[test]
    fn an_open_deployment_goes_on_or_ends() {
        let open = deployment();
        let with = |open: &Deployment| Case { history: vec![open.clone()], ..Case::default() };
        assert_eq!(ask(&with(&open)), Next::Again(Box::new(open.clone())));
        // The success of a client that could not tell it.
        let arrived = Case { provides: provides("release-2", &[]), ..with(&open) };
        assert_eq!(ask(&arrived), Next::Arrived(Box::new(open.clone())));
        let lost = Case { provides: provides("unknown", &[]), ..with(&open) };
        assert_eq!(ask(&lost), Next::Lost(Box::new(open.clone())));
        let other = LockedImage { artifact: Digest::from_bytes([7; 32]), ..pinned() };
        let replaced = Case { pinned: Some(other), ..with(&open) };
        assert_eq!(ask(&replaced), Next::Replaced(Box::new(open.clone())));
        assert_eq!(ask(&Case { pinned: None, ..with(&open) }), Next::Replaced(Box::new(open)));
    }

    #[test]
    fn what_failed_is_not_tried_again_by_itself() {
        let past = |state, furthest, held| Deployment { state, furthest, held, ..deployment() };
        let why = |history: &[Deployment], now| match ask(&Case {
            history: history.to_vec(),
            now,
            ..Case::default()
        }) {
            Next::Wait(why) => why,
            Next::Begin(_) => String::new(),
            other => panic!("{other:?}"),
        };
        let failed = past(DeploymentState::Failure, DeploymentState::Rebooting, true);
        assert!(
            why(std::slice::from_ref(&failed), 0)
                .starts_with("image release-2 failed on it; it is not tried again")
        );
        let released = Deployment { held: false, released: true, ..failed.clone() };
        assert_eq!(why(&[released], 0), "");
        let other = Deployment { artifact: Digest::from_bytes([5; 32]), ..failed };
        assert_eq!(why(&[other], 0), "", "another image is another matter");
        let download = past(DeploymentState::Failure, DeploymentState::Downloading, false);
        assert!(
            why(std::slice::from_ref(&download), 10)
                .contains("could not be fetched; it is tried again in 4 min")
        );
        assert_eq!(why(std::slice::from_ref(&download), 300), "");
        assert!(why(&[download.clone(), download.clone()], 300).contains("in 5 min"));
        let last = past(DeploymentState::Failure, DeploymentState::Downloading, true);
        assert!(why(&[last, download.clone(), download], 100_000).contains("volary device retry"));
        let again = Deployment {
            released: true,
            ..past(DeploymentState::Failure, DeploymentState::Downloading, false)
        };
        assert_eq!(why(&[again], 0), "", "whoever asks for it gets it at once");
        let aborted = past(DeploymentState::Aborted, DeploymentState::Downloading, false);
        assert_eq!(why(std::slice::from_ref(&aborted), 0), "", "pinned again, tried again");
        let by_hand = Deployment { held: true, substate: "by ada".into(), ..aborted };
        assert!(why(&[by_hand], 0).contains("was called back: by ada"));
    }

    #[test]
    fn provides_and_depends_choose_the_artifact() {
        let old = ("rootfs-image.checksum", "11");
        let images = vec![
            image(2, ROOTFS_IMAGE, 80, &[]),
            image(3, "mender-binary-delta", 5, &[old]),
            image(4, "mender-binary-delta", 4, &[("rootfs-image.checksum", "22")]),
            image(5, "other-delta", 1, &[old]),
            image(6, "mender-binary-delta", 6, &[old]),
            image(7, ROOTFS_IMAGE, 9, &[("artifact_name", "release-1"), ("rootfs-image.checksum", "33")]),
        ];
        let check = |more: &[(&str, &str)], expected: u8| {
            let case =
                Case { provides: provides("release-1", more), images: images.clone(), ..Case::default() };
            assert_eq!(ask(&case), Next::Begin(Digest::from_bytes([expected; 32])), "{more:?}");
        };
        // As version 1 asks: nothing is known but name and type.
        check(&[], 2);
        check(&[old], 3);
        check(&[("rootfs-image.checksum", "22")], 4);
        check(&[("rootfs-image.checksum", "33")], 7);
        check(&[("rootfs-image.checksum", "44")], 2);
        let needs = vec![image(2, ROOTFS_IMAGE, 80, &[("artifact_name", "release-0")])];
        let said = ask(&Case { images: needs, ..Case::default() });
        let why = "image release-2 cannot be installed: it needs artifact_name release-0, and the device has release-1";
        assert_eq!(said, Next::Wait(why.into()));
    }
}
