//! Which images are needed, by whom, and which may go. Pure decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use volary_fleet::LockedImage;
use volary_model::{DeviceType, Digest, StageName};
use volary_plan::text;
use volary_store::Image;

use crate::config::ImageConfig;
use crate::fleet_view::FleetView;

/// The artifact that a stage pins for a device type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) stage: StageName,
    pub(crate) device_type: DeviceType,
    pub(crate) image: LockedImage,
}

/// All that the newest commits of the stages pin.
pub(crate) fn pins(view: &FleetView) -> Vec<Pin> {
    let of_stage = |(stage, device_type, image): (&StageName, &DeviceType, &LockedImage)| Pin {
        stage: stage.clone(),
        device_type: device_type.clone(),
        image: image.clone(),
    };
    let all = view
        .stages
        .iter()
        .flat_map(|stage| stage.images.iter().map(|(device_type, image)| (&stage.name, device_type, image)));
    all.map(of_stage).collect()
}

/// Why housekeeping keeps an image, each reason as a sentence; nothing if it may go.
pub(crate) fn why_kept(
    image: &Image,
    all: &[Image],
    pins: &[Pin],
    policy: &ImageConfig,
    now: Timestamp,
) -> Vec<String> {
    let mut reasons: Vec<String> = pins
        .iter()
        .filter(|pin| leads_to(image, pin))
        .map(|pin| match pin.image.artifact == image.artifact {
            true => format!("stage {} pins it for {}", pin.stage, pin.device_type),
            false => format!("it leads to what stage {} pins for {}", pin.stage, pin.device_type),
        })
        .collect();
    let newest = image.device_types.iter().filter(|name| is_newest(image, all, name, policy.keep));
    reasons.extend(newest.map(|name| format!("among the newest {} of {name}", policy.keep)));
    let age = Duration::try_from(now.duration_since(image.wanted_at)).unwrap_or_default();
    if age < Duration::from_secs(86_400 * u64::from(policy.days)) {
        let age = text::duration(age);
        reasons.push(format!("published or pinned {age} ago, kept for {} days", policy.days));
    }
    reasons
}

/// True if a device of the pin's type is at the pinned image after installing this one.
fn leads_to(image: &Image, pin: &Pin) -> bool {
    pin.image.artifact == image.artifact
        || (image.device_types.contains(&pin.device_type)
            && image.name == pin.image.name
            && image.rootfs == pin.image.rootfs)
}

/// True if less than `keep` names of this device type came after that of the image.
fn is_newest(image: &Image, all: &[Image], device_type: &DeviceType, keep: u32) -> bool {
    let mut last: BTreeMap<_, Timestamp> = BTreeMap::new();
    for other in all.iter().filter(|other| other.device_types.contains(device_type)) {
        let at = last.entry(&other.name).or_insert(other.published_at);
        *at = (*at).max(other.published_at);
    }
    let own = last.get(&image.name).copied().unwrap_or(image.published_at);
    let later = last.iter().filter(|(name, at)| (**at, **name) > (own, &image.name)).count();
    later < keep as usize
}

/// The artifacts that may go: no reason keeps them.
pub(crate) fn surplus(all: &[Image], pins: &[Pin], policy: &ImageConfig, now: Timestamp) -> BTreeSet<Digest> {
    let unneeded = |image: &&Image| why_kept(image, all, pins, policy, now).is_empty();
    all.iter().filter(unneeded).map(|image| image.artifact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).unwrap()
    }

    fn image(number: u8, name: &str, rootfs: u8, published: i64) -> Image {
        Image {
            artifact: Digest::from_bytes([number; 32]),
            size: 1,
            name: name.parse().unwrap(),
            device_types: vec!["pi".parse().unwrap()],
            rootfs: Digest::from_bytes([rootfs; 32]),
            manifest: None,
            rootfs_size: Some(1),
            kind: "rootfs-image".into(),
            provides: BTreeMap::new(),
            depends: BTreeMap::new(),
            signed_by: None,
            published_at: at(published),
            published_by: "ada".into(),
            wanted_at: at(published),
        }
    }

    fn pin(image: &Image) -> Pin {
        Pin {
            stage: "canary".parse().unwrap(),
            device_type: "pi".parse().unwrap(),
            image: LockedImage {
                name: image.name.clone(),
                artifact: image.artifact,
                size: image.size,
                rootfs: image.rootfs,
                manifest: None,
            },
        }
    }

    #[test]
    fn the_pinned_the_newest_and_the_young_stay() {
        let all = [
            image(1, "a", 11, 1),
            image(2, "b", 12, 2),
            image(3, "b", 12, 3),
            image(4, "c", 14, 4),
            image(5, "d", 15, 5),
        ];
        let check = |pins: &[Pin], keep, days, now, expected: &[u8]| {
            let policy = ImageConfig { keep, days, ..ImageConfig::default() };
            let gone = surplus(&all, pins, &policy, at(now));
            let expected = expected.iter().map(|number| Digest::from_bytes([*number; 32])).collect();
            assert_eq!(gone, expected);
        };
        check(&[], 2, 0, 100, &[1, 2, 3]);
        // Whatever leads to the same image counts as that image.
        check(&[], 3, 0, 100, &[1]);
        check(&[pin(&all[2])], 0, 0, 100, &[1, 4, 5]);
        check(&[], 0, 30, 33, &[1, 2, 3]);
        check(&[], 0, 30, 20, &[]);
        let policy = ImageConfig { keep: 1, days: 30, ..ImageConfig::default() };
        let why = why_kept(&all[1], &all, &[pin(&all[2])], &policy, at(3));
        assert_eq!(
            why,
            ["it leads to what stage canary pins for pi", "published or pinned 1 d ago, kept for 30 days"]
        );
    }
}
