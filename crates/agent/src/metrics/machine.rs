//! Heat, clock and boots.

use super::files::{Root, whole};
use super::sink::Sink;

/// The most thermal zones that are told apart.
const ZONES: usize = 16;

/// The card reset the machine (`WDIOF_CARDRESET` of the kernel's watchdog API).
const CARD_RESET: u32 = 0x20;

/// Looks. `clock` is what systemd said of the clock where no file tells.
pub fn look(root: &Root, clock: Option<bool>, unclean: Option<bool>, sink: &mut Sink<'_>) {
    let truth = |is: bool| if is { 1.0 } else { 0.0 };
    sink.put("unclean_boot", unclean.map(truth));
    sink.put("reboot_pending", truth(root.has("/run/reboot-required")));
    sink.put("clock_synchronised", clock_by_file(root).or(clock).map(truth));
    if sink.wants(&["temperature_celsius"]) {
        temperatures(root, sink);
    }
}

/// What systemd-timesyncd left; `None` if something else, or nothing, sets the clock.
pub fn clock_by_file(root: &Root) -> Option<bool> {
    root.has("/run/systemd/timesync").then(|| root.has("/run/systemd/timesync/synchronized"))
}

fn temperatures(root: &Root, sink: &mut Sink<'_>) {
    let folder = "/sys/class/thermal";
    let zones = root.names(folder).into_iter().filter(|name| name.starts_with("thermal_zone"));
    let mut seen: Vec<String> = Vec::new();
    for zone in zones.take(ZONES) {
        let Some(text) = root.text(&format!("{folder}/{zone}/temp")) else { continue };
        let (sign, digits) = text.trim().strip_prefix('-').map_or((1.0, text.trim()), |rest| (-1.0, rest));
        // Thousandths; a sensor that is not connected says something absurd.
        let Some(celsius) = whole(digits).map(|value| sign * value / 1000.0) else { continue };
        if !(-60.0..=200.0).contains(&celsius) {
            continue;
        }
        let kind = root.text(&format!("{folder}/{zone}/type")).unwrap_or_default().trim().to_owned();
        // Two zones of the same kind are told apart by their numbers.
        let name = if kind.is_empty() || seen.contains(&kind) { zone } else { kind };
        sink.put_of("temperature_celsius", "zone", &name, (celsius * 10.0).round() / 10.0);
        seen.push(name);
    }
}

/// Whether the boot before ended in a reset or a panic, as far as the hardware or the kernel tell;
/// `None` if they do not.
pub fn ended_badly(root: &Root) -> Option<bool> {
    let status = |watchdog: &String| root.text(&format!("/sys/class/watchdog/{watchdog}/bootstatus"));
    let watchdogs = root.names("/sys/class/watchdog");
    let mut statuses = watchdogs.iter().filter_map(status).filter_map(|text| text.trim().parse::<u32>().ok());
    let was_reset = statuses.any(|status| status & CARD_RESET != 0);
    let panicked = root.names("/sys/fs/pstore").iter().any(|name| name.starts_with("dmesg-"));
    (was_reset || panicked).then_some(true)
}
