//! What is known of a device over time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{DeviceName, StageName};

use crate::series::{Point, between};

/// The past of one device. What is later than a moment that is asked about must not count.
pub trait History {
    /// The device.
    fn device(&self) -> &DeviceName;

    /// Its stage.
    fn stage(&self) -> &StageName;

    /// Since when it belongs to the fleet, if that is known.
    fn known_since(&self) -> Option<Timestamp>;

    /// When it was heard of last, at this moment or before.
    fn seen_at(&self, moment: Timestamp) -> Option<Timestamp>;

    /// Since when it is not what its stage wants, at this moment, and in which way.
    fn behind(&self, moment: Timestamp) -> Option<(Timestamp, String)>;

    /// When it booted, in the order of time.
    fn boots(&self) -> &[Timestamp];

    /// The names of its series, with their labels.
    fn series(&self) -> Vec<&str>;

    /// The points of a series at `from` or later and before `until`, in the order of time.
    fn points(&self, series: &str, from: Timestamp, until: Timestamp) -> &[Point];
}

/// The past of one device, all in memory. Also the form in which a history is written to a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// The device.
    pub device: DeviceName,
    /// Its stage.
    pub stage: StageName,
    /// Since when it belongs to the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Timestamp>,
    /// When it was heard of, beside what its points tell, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<Timestamp>,
    /// When it was not what its stage wants, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Behind>,
    /// When it booted, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boots: Vec<Timestamp>,
    /// Its series with their points, in the order of time.
    #[serde(default)]
    pub series: BTreeMap<String, Vec<Point>>,
}

/// A time in which a device is not what its stage wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behind {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end; none if it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// In which way.
    pub why: String,
}

impl Recorded {
    /// The past of a device of which nothing is known.
    pub fn new(device: DeviceName, stage: StageName) -> Self {
        Self {
            device,
            stage,
            known_since: None,
            seen: Vec::new(),
            behind: Vec::new(),
            boots: Vec::new(),
            series: BTreeMap::new(),
        }
    }

    /// Brings everything into the order of time, as it must be.
    pub fn sort(&mut self) {
        self.seen.sort();
        self.boots.sort();
        self.behind.sort_by_key(|behind| behind.from);
        self.series.values_mut().for_each(|points| points.sort_by_key(|point| point.at));
    }
}

impl History for Recorded {
    fn device(&self) -> &DeviceName {
        &self.device
    }

    fn stage(&self) -> &StageName {
        &self.stage
    }

    fn known_since(&self) -> Option<Timestamp> {
        let first = self.series.values().filter_map(|points| points.first()).map(|point| point.at);
        self.known_since.or_else(|| first.chain(self.seen.first().copied()).min())
    }

    fn seen_at(&self, moment: Timestamp) -> Option<Timestamp> {
        let last = |points: &Vec<Point>| {
            let until = points.partition_point(|point| point.at <= moment);
            points[..until].last().map(|point| point.at)
        };
        let heard = &self.seen[..self.seen.partition_point(|seen| *seen <= moment)];
        self.series.values().filter_map(last).chain(heard.last().copied()).max()
    }

    fn behind(&self, moment: Timestamp) -> Option<(Timestamp, String)> {
        let is_in =
            |behind: &&Behind| behind.from <= moment && behind.until.is_none_or(|until| moment < until);
        self.behind.iter().find(is_in).map(|behind| (behind.from, behind.why.clone()))
    }

    fn boots(&self) -> &[Timestamp] {
        &self.boots
    }

    fn series(&self) -> Vec<&str> {
        self.series.keys().map(String::as_str).collect()
    }

    fn points(&self, series: &str, from: Timestamp, until: Timestamp) -> &[Point] {
        self.series.get(series).map_or(&[], |points| between(points, from, until))
    }
}
