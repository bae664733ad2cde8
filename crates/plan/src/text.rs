//! Figures as people read them.

use std::time::Duration;

/// A duration in its two largest units: `3 d 4 h`, `12 min 5 s`, `40 s`.
pub fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = duration.as_secs();
    let first = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    let (size, unit) = UNITS[first];
    let head = format!("{} {unit}", seconds / size);
    match UNITS.get(first + 1) {
        Some((small, unit)) if seconds % size / small > 0 => {
            format!("{head} {} {unit}", seconds % size / small)
        }
        _ => head,
    }
}

/// A number with its noun: `1 device`, `3 devices`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A number of bytes in its largest unit, negative ones too: `512 B`, `1.5 MiB`.
pub fn size(bytes: f64) -> String {
    const UNITS: [(f64, &str); 4] =
        [(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")];
    match UNITS.into_iter().find(|(size, _)| bytes.abs() >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes / size),
        None => format!("{bytes:.0} B"),
    }
}

/// At most `most` names, and how many more there are.
pub fn some(names: &[String], most: usize) -> String {
    of_all(&names[..most.min(names.len())], names.len())
}

/// Names, and how many more there are of `all`.
pub fn of_all(names: &[String], all: usize) -> String {
    let shown = names.join(", ");
    match all.saturating_sub(names.len()) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (725, "12 min 5 s"),
            (3_600, "1 h"),
            (86_399, "23 h 59 min"),
            (273_600, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn sizes_read_well() {
        let check = |bytes: f64, text: &str| assert_eq!(size(bytes), text);
        check(0.0, "0 B");
        check(1023.0, "1023 B");
        check(1_572_864.0, "1.5 MiB");
        check(-2048.0, "-2.0 KiB");
        check(5e12, "4.5 TiB");
    }

    #[test]
    fn long_lists_are_cut() {
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(some(&names, 3), "a, b, c");
        assert_eq!(some(&names, 2), "a, b and 1 more");
    }
}
