//! `windows:` of `volary.yml`: the hours in which a stage may change its devices.
//!
//! `"Mon..Fri 02:00-05:00"`; several of them, over midnight too. Whether one is open is decided by
//! the device, at its own time.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Weekday;

use crate::fields::{FieldError, Fields};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// The most windows a stage may have: a device walks through them for each decision.
const MAX_WINDOWS: usize = 50;

/// When the devices of a stage may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// They may inside any of these; there is at least one.
    pub install: Vec<Window>,
    /// Whose clock that is.
    pub zone: Zone,
}

/// Whose clock a time of day is on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Zone {
    /// The device's own, as `/etc/localtime` says.
    #[default]
    Device,
    /// Coordinated universal time.
    Utc,
    /// A zone of the IANA data base: `Africa/Ouagadougou`.
    Named(String),
}

/// Some hours of some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The days on which it begins.
    pub days: Weekdays,
    /// The minute of the day at which it begins, below 1,440.
    pub from: u16,
    /// The minute of the day at which it ends, from 1 to 1,440; of the next day if that is not
    /// later than `from`.
    pub until: u16,
}

impl Window {
    /// How many minutes it is open.
    pub const fn minutes(&self) -> u16 {
        if self.until > self.from { self.until - self.from } else { DAY - self.from + self.until }
    }
}

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weekdays(u8);

impl Weekdays {
    /// All seven.
    pub const ALL: Self = Self(0b111_1111);

    /// True if the day is one of them.
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & bit(day) != 0
    }

    /// From Monday on.
    pub fn iter(self) -> impl Iterator<Item = Weekday> {
        Weekday::Monday.cycle_forward().take(7).filter(move |day| self.contains(*day))
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

impl FromIterator<Weekday> for Weekdays {
    fn from_iter<T: IntoIterator<Item = Weekday>>(days: T) -> Self {
        Self(days.into_iter().fold(0, |set, day| set | bit(day)))
    }
}

const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn weekday(text: &str) -> Result<Weekday, String> {
    let at = NAMES.iter().position(|name| *name == text);
    let offset = at.ok_or_else(|| format!("{text:?} is no day of the week"))?;
    Ok(Weekday::from_monday_zero_offset(i8::try_from(offset).expect("at most 6")).expect("at most 6"))
}

impl FromStr for Weekdays {
    type Err = String;

    /// `Mon..Fri`, `Sat,Sun`, `Fri..Mon,Wed`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut days = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once("..").unwrap_or((part, part));
            let (first, last) = (weekday(first)?, weekday(last)?);
            let between = usize::try_from(first.until(last)).expect("0 to 6");
            days.0 |= first.cycle_forward().take(between + 1).collect::<Self>().0;
        }
        Ok(days)
    }
}

impl fmt::Display for Weekdays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for day in self.iter() {
            write!(f, "{separator}{}", NAMES[usize::from(day.to_monday_zero_offset().unsigned_abs())])?;
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (days, hours) = match text.split_once(' ') {
            Some((days, hours)) => (days.parse()?, hours.trim_start()),
            None => (Weekdays::ALL, text),
        };
        let (from, until) = hours.split_once('-').ok_or_else(|| format!("{hours:?} is no span of time"))?;
        let (from, until) = (minute(from)?, minute(until)?);
        match (from, until) {
            (DAY, _) => Err("a window cannot begin at 24:00; write 00:00 of the next day".to_owned()),
            (_, 0) => Ok(Self { days, from, until: DAY }),
            _ if from == until => Err(format!("{hours:?} is empty; for the whole day write 00:00-24:00")),
            _ => Ok(Self { days, from, until }),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, until) = (self.from, self.until);
        if self.days != Weekdays::ALL {
            write!(f, "{} ", self.days)?;
        }
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

/// `02:00` to `24:00`.
fn minute(text: &str) -> Result<u16, String> {
    let bad = || format!("{text:?} is no time of day; write it as 02:00");
    let (hour, minute) = text.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| {
        let two_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        two_digits.then(|| text.parse::<u16>().expect("two digits")).ok_or_else(bad)
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    match hour * 60 + minute {
        minutes if minutes <= DAY && minute < 60 => Ok(minutes),
        _ => Err(bad()),
    }
}

impl FromStr for Zone {
    type Err = String;

    /// The name's form only: whether the zone exists is known where its data base is.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_part = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphabetic())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
        };
        match text {
            "device" => Ok(Self::Device),
            "UTC" => Ok(Self::Utc),
            _ if text.len() <= 64 && text.contains('/') && text.split('/').all(is_part) => {
                Ok(Self::Named(text.to_owned()))
            }
            _ => Err(format!("{text:?} is no time zone; write `device`, `UTC` or `Area/City`")),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("device"),
            Self::Utc => f.write_str("UTC"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

pub(super) fn windows(section: &Fields<'_>, stage: &str) -> Result<Windows, FieldError> {
    let fields = section.map(stage, &["install", "time_zone"])?;
    let remedy = "write it as \"Mon..Fri 02:00-05:00\"";
    let texts = fields.texts("install")?;
    if texts.is_empty() || texts.len() > MAX_WINDOWS {
        let message = format!("there are {} windows, and 1 to {MAX_WINDOWS} are taken", texts.len());
        return Err(fields.complain("install", message, remedy));
    }
    let window = |(text, line): (&str, usize)| {
        text.parse().map_err(|message: String| fields.complain_at(line, "install", message, remedy))
    };
    Ok(Windows {
        install: texts.into_iter().map(window).collect::<Result<_, _>>()?,
        zone: match fields.get("time_zone") {
            Some(_) => fields.parsed("time_zone")?,
            None => Zone::Device,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_and_written() {
        let check = |text: &str, written: &str, minutes: u16| {
            let window: Window = text.parse().unwrap();
            assert_eq!((window.to_string().as_str(), window.minutes()), (written, minutes), "{text}");
            assert_eq!(written.parse::<Window>().unwrap(), window);
        };
        check("Mon..Fri 02:00-05:00", "Mon,Tue,Wed,Thu,Fri 02:00-05:00", 180);
        check("02:00-05:30", "02:00-05:30", 210);
        check("Sat,Sun 22:00-04:00", "Sat,Sun 22:00-04:00", 360);
        check("Fri..Mon,Wed 00:00-24:00", "Mon,Wed,Fri,Sat,Sun 00:00-24:00", 1440);
        check("Mon 23:00-00:00", "Mon 23:00-24:00", 60);
        check("Mon..Sun  00:01-00:00", "00:01-24:00", 1439);
    }

    #[test]
    fn what_is_no_window_says_why() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Window>().unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("Monday 02:00-05:00", "\"Monday\" is no day of the week");
        check("mon 02:00-05:00", "\"mon\" is no day");
        check("Mon..Xyz 02:00-05:00", "\"Xyz\" is no day");
        check("Mon 02:00", "is no span of time");
        check("Mon 2:00-05:00", "\"2:00\" is no time of day; write it as 02:00");
        check("Mon 02:60-05:00", "\"02:60\" is no time of day");
        check("Mon 02:00-24:01", "\"24:01\" is no time of day");
        check("Mon 24:00-05:00", "cannot begin at 24:00");
        check("Mon 02:00-02:00", "is empty; for the whole day write 00:00-24:00");
        check("", "is no span");
    }

    #[test]
    fn zones() {
        let check = |text: &str, zone: Option<Zone>| assert_eq!(text.parse().ok(), zone, "{text}");
        check("device", Some(Zone::Device));
        check("UTC", Some(Zone::Utc));
        check("Africa/Ouagadougou", Some(Zone::Named("Africa/Ouagadougou".into())));
        check("America/Argentina/Buenos_Aires", Some(Zone::Named("America/Argentina/Buenos_Aires".into())));
        for text in ["", "utc", "CET", "/etc", "../../etc/passwd", "Europe//Berlin", "Europe/", "a/b\0"] {
            check(text, None);
        }
    }
}
