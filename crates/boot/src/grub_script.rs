//! The script that GRUB runs: it reads the two blocks, notes a trial, boots a slot.

use volary_model::Slot;

use crate::grub::{FILES, SECTORS, VARIABLE};
use crate::layout::{Layout, LayoutError, Table};
use crate::state::BootState;

/// The modules of GRUB that the script needs, for `grub-mkimage`; add what the firmware and the
/// console need.
pub const GRUB_MODULES: [&str; 14] = [
    "boot",
    "configfile",
    "echo",
    "ext2",
    "fat",
    "linux",
    "loadenv",
    "normal",
    "part_gpt",
    "part_msdos",
    "reboot",
    "regexp",
    "sleep",
    "test",
];

/// The text of `grub.cfg`. The disk is the one that GRUB itself was started from, whatever number
/// the firmware gives it.
///
/// # Errors
/// [`LayoutError`] if a word of the layout would mean something to GRUB's shell.
pub fn grub_script(layout: &Layout) -> Result<String, LayoutError> {
    layout.check()?;
    Ok(format!("{}{}", decide(layout), boot(layout)))
}

/// Up to the decision: `slot` is what is to be booted, `trial` is 1 if that is a trial.
///
/// A block that GRUB cannot read it cannot write either, so only the one that was read has to take
/// the note. One that is damaged stays so until the agent mends it.
pub fn decide(layout: &Layout) -> String {
    let mut text = String::from("# Made by Volary. Boots the slot that the boot state names.\n");
    for line in &layout.preamble {
        text.push_str(line);
        text.push('\n');
    }
    let table = table(layout);
    let bootenv = layout.bootenv;
    let [sector1, sector2] = SECTORS;
    let [file1, file2] = FILES;
    let words = BootState::ALL.map(BootState::word).join(" ");
    text.push_str(&format!(
        r#"set disk=
if [ -n "$cmdpath" ]; then regexp --set=1:disk '^\(([^,)]+)' "$cmdpath"; fi
if [ -z "$disk" ]; then regexp --set=1:disk '^\(?([^,)]+)' "$root"; fi
set part="(${{disk}},{table}{bootenv})"
set file1="${{part}}{file1}"
set file2="${{part}}{file2}"
set state=
set used=
for copy in 1 2; do
  if [ "$copy" = 1 ]; then set sectors="${{part}}{sector1}+1"; else set sectors="${{part}}{sector2}+1"; fi
  if [ -z "$used" ]; then
    set {VARIABLE}=
    load_env --skip-sig --file "$sectors" {VARIABLE}
    for word in {words}; do
      if [ "${VARIABLE}" = "$word" ]; then set state="$word"; set used="$copy"; fi
    done
  fi
done
if [ -z "$used" ]; then
  echo "volary: no copy of the boot state is valid"
  set state=a
fi
if [ "$state" = b -o "$state" = b-new -o "$state" = b-begun ]; then
  set slot=b; set other=a
else
  set slot=a; set other=b
fi
function volary_swap {{
  set swap="$slot"; set slot="$other"; set other="$swap"
}}
function volary_save {{
  set saved=0
  if save_env --file "$file1" {VARIABLE}; then
    if [ "$used" = 1 ]; then set saved=1; fi
  fi
  if save_env --file "$file2" {VARIABLE}; then
    if [ "$used" = 2 ]; then set saved=1; fi
  fi
}}
set trial=0
if [ "$state" = "${{slot}}-new" ]; then
  set {VARIABLE}="${{slot}}-begun"
  volary_save
  if [ "$saved" = 1 ]; then
    set trial=1
  else
    echo "volary: the boot state cannot be written, so slot $slot is not tried"
    volary_swap
  fi
elif [ "$state" = "${{slot}}-begun" ]; then
  echo "volary: slot $slot was tried and not confirmed"
  volary_swap
  set {VARIABLE}="$slot"
  volary_save
fi
"#
    ));
    text
}

/// What follows the decision. Only a slot whose kernel cannot be loaded is passed over.
fn boot(layout: &Layout) -> String {
    let table = table(layout);
    let Layout { kernel, initrd, .. } = layout;
    let arguments = layout.arguments.join(" ");
    let (root_a, root_b) = (layout.root(Slot::A), layout.root(Slot::B));
    let (device_a, device_b) = (layout.device(Slot::A), layout.device(Slot::B));
    format!(
        r#"function volary_boot {{
  if [ "$slot" = a ]; then
    set part="(${{disk}},{table}{root_a})"; set device={device_a}
  else
    set part="(${{disk}},{table}{root_b})"; set device={device_b}
  fi
  echo "volary: booting slot $slot, trial $trial"
  if linux "${{part}}{kernel}" root="$device" {arguments} volary.slot="$slot"; then
    if [ -e "${{part}}{initrd}" ]; then
      if initrd "${{part}}{initrd}"; then boot; fi
    else
      boot
    fi
  fi
  echo "volary: slot $slot has no kernel that can be loaded"
}}
volary_boot
volary_swap
if [ "$trial" = 1 ]; then
  set trial=0
  set {VARIABLE}="$slot"
  volary_save
fi
volary_boot
echo "volary: neither slot can be booted; once more in 30 seconds"
sleep 30
reboot
"#
    )
}

const fn table(layout: &Layout) -> &'static str {
    match layout.table {
        Table::Gpt => "gpt",
        Table::Mbr => "msdos",
    }
}
