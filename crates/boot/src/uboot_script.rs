//! The script that U-Boot runs from the boot partition: `boot.scr`.

use volary_model::Slot;

use crate::layout::{Layout, LayoutError};
use crate::uboot::{ENVIRONMENT_OFFSETS, ENVIRONMENT_SIZE, crc32};

/// What the script has to know beside the [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UBootDisk {
    /// True if `bootenv` is where this U-Boot has its own environment, so that it has loaded it and
    /// `saveenv` writes it. Else the script reads and writes the sectors, which any U-Boot can.
    pub own_environment: bool,
    /// The command that starts the kernel: `booti` for arm64, `bootz` for armhf.
    pub boot: String,
    /// The device tree in each slot. Without one the kernel gets U-Boot's own.
    pub device_tree: Option<String>,
}

/// The script's text; [`boot_scr`] makes the file of it. The disk is the one that the script came from.
///
/// # Errors
/// [`LayoutError`] if a word of the layout would mean something to U-Boot's shell.
pub fn uboot_script(layout: &Layout, disk: &UBootDisk) -> Result<String, LayoutError> {
    layout.check()?;
    Layout::check_words(disk.device_tree.iter().chain([&disk.boot]))?;
    let mut text = String::from("# Made by Volary. Boots the slot that the boot state names.\n");
    for line in &layout.preamble {
        text.push_str(line);
        text.push('\n');
    }
    if disk.own_environment {
        text.push_str("setenv volary_save saveenv\n");
    } else {
        text.push_str(&sectors(layout.bootenv));
    }
    text.push_str(DECIDE);
    text.push_str(&boot(layout, disk));
    Ok(text)
}

/// Reads the two copies by sectors, takes the newest valid one, and defines how to write the other.
///
/// `crc32` stores its result in the order of the processor or of the network, depending on how
/// U-Boot was configured: the sum of four zeros tells which.
fn sectors(bootenv: u32) -> String {
    let sectors = ENVIRONMENT_SIZE / 512;
    let second = ENVIRONMENT_OFFSETS[1] / 512;
    let data = ENVIRONMENT_SIZE - 5;
    format!(
        r#"setexpr volary_a1 ${{ramdisk_addr_r}} + 0
setexpr volary_a2 ${{ramdisk_addr_r}} + 10000
setexpr volary_c0 ${{ramdisk_addr_r}} + 20000
setexpr volary_c1 ${{volary_c0}} + 1
setexpr volary_c2 ${{volary_c0}} + 2
setexpr volary_c3 ${{volary_c0}} + 3
setexpr volary_c4 ${{volary_c0}} + 4
setexpr volary_c5 ${{volary_c0}} + 5
setexpr volary_c6 ${{volary_c0}} + 6
setexpr volary_c7 ${{volary_c0}} + 7
mw.l ${{volary_a1}} 0 1
crc32 ${{volary_a1}} 4 ${{volary_c0}}
setexpr.b volary_x *${{volary_c0}}
setenv volary_turn 0
if test "${{volary_x}}" = 21; then setenv volary_turn 1; fi
setenv volary_sum 'setexpr volary_d ${{volary_a}} + 5; crc32 ${{volary_d}} {data:x} ${{volary_c0}}; if test ${{volary_turn}} = 1; then cp.b ${{volary_c3}} ${{volary_c4}} 1; cp.b ${{volary_c2}} ${{volary_c5}} 1; cp.b ${{volary_c1}} ${{volary_c6}} 1; cp.b ${{volary_c0}} ${{volary_c7}} 1; cp.b ${{volary_c4}} ${{volary_c0}} 4; fi'
setenv volary_check 'setenv volary_ok 0; if ${{devtype}} read ${{volary_a}} ${{volary_s}} {sectors:x}; then run volary_sum; if cmp.b ${{volary_c0}} ${{volary_a}} 4; then setenv volary_ok 1; fi; fi'
part start ${{devtype}} ${{devnum}} {bootenv:x} volary_s1
setexpr volary_s2 ${{volary_s1}} + {second:x}
${{devtype}} dev ${{devnum}}
setenv volary_a ${{volary_a1}}; setenv volary_s ${{volary_s1}}; run volary_check; setenv volary_ok1 ${{volary_ok}}
setenv volary_a ${{volary_a2}}; setenv volary_s ${{volary_s2}}; run volary_check; setenv volary_ok2 ${{volary_ok}}
setexpr volary_d ${{volary_a1}} + 4; setexpr.b volary_f1 *${{volary_d}}
setexpr volary_d ${{volary_a2}} + 4; setexpr.b volary_f2 *${{volary_d}}
setenv volary_use 0
if test ${{volary_ok1}}${{volary_ok2}} = 10; then setenv volary_use 1; fi
if test ${{volary_ok1}}${{volary_ok2}} = 01; then setenv volary_use 2; fi
if test ${{volary_ok1}}${{volary_ok2}} = 11; then
  setenv volary_use 1
  if itest ${{volary_f2}} -gt ${{volary_f1}}; then setenv volary_use 2; fi
  if test ${{volary_f1}} = ff && test ${{volary_f2}} = 0; then setenv volary_use 2; fi
  if test ${{volary_f1}} = 0 && test ${{volary_f2}} = ff; then setenv volary_use 1; fi
fi
setenv volary_slot; setenv upgrade_available; setenv bootcount
setenv volary_f 0
if test ${{volary_use}} = 1; then setexpr volary_d ${{volary_a1}} + 5; setenv volary_f ${{volary_f1}}; fi
if test ${{volary_use}} = 2; then setexpr volary_d ${{volary_a2}} + 5; setenv volary_f ${{volary_f2}}; fi
if test ${{volary_use}} != 0; then env import -b ${{volary_d}} {data:x} volary_slot upgrade_available bootcount; fi
setenv volary_a ${{volary_a1}}; setenv volary_s ${{volary_s1}}
if test ${{volary_use}} = 1; then setenv volary_a ${{volary_a2}}; setenv volary_s ${{volary_s2}}; fi
setexpr volary_f ${{volary_f}} + 1
if test ${{volary_f}} = 100; then setenv volary_f 0; fi
setenv volary_save 'setexpr volary_d ${{volary_a}} + 4; mw.b ${{volary_d}} ${{volary_f}} 1; setexpr volary_d ${{volary_a}} + 5; env export -b -s {data:x} ${{volary_d}} bootcount upgrade_available volary_slot; run volary_sum; cp.b ${{volary_c0}} ${{volary_a}} 4; ${{devtype}} write ${{volary_a}} ${{volary_s}} {sectors:x}'
"#
    )
}

/// Up to the decision: `volary_boot` is what is to be booted, `volary_trial` is 1 if that is a trial.
const DECIDE: &str = r#"setenv volary_boot a
setenv volary_other b
if test "${volary_slot}" = b; then setenv volary_boot b; setenv volary_other a; fi
if test "${volary_slot}" != a && test "${volary_slot}" != b; then echo "volary: no copy of the boot state is valid"; setenv upgrade_available 0; fi
setenv volary_trial 0
setenv volary_swap 'setenv volary_x ${volary_boot}; setenv volary_boot ${volary_other}; setenv volary_other ${volary_x}'
if test "${upgrade_available}" = 1; then
  if test "${bootcount}" = 0; then
    setenv bootcount 1
    if run volary_save; then
      setenv volary_trial 1
    else
      echo "volary: the boot state cannot be written, so slot ${volary_boot} is not tried"
      run volary_swap
    fi
  else
    echo "volary: slot ${volary_boot} was tried and not confirmed"
    run volary_swap
    setenv volary_slot ${volary_boot}; setenv upgrade_available 0; setenv bootcount 0
    run volary_save
  fi
fi
"#;

fn boot(layout: &Layout, disk: &UBootDisk) -> String {
    let Layout { kernel, initrd, .. } = layout;
    let arguments = layout.arguments.join(" ");
    let (root_a, root_b) = (layout.root(Slot::A), layout.root(Slot::B));
    let (device_a, device_b) = (layout.device(Slot::A), layout.device(Slot::B));
    let command = &disk.boot;
    let tree = match &disk.device_tree {
        None => "setenv volary_fdt ${fdtcontroladdr}; if test -n \"${fdt_addr}\"; then setenv volary_fdt ${fdt_addr}; fi".to_owned(),
        Some(path) => format!(
            "setenv volary_fdt ${{fdt_addr_r}}; load ${{devtype}} ${{devnum}}:${{volary_part}} ${{fdt_addr_r}} {path}"
        ),
    };
    let slot = format!(
        r#"if test ${{volary_boot}} = a; then setenv volary_part {root_a:x}; setenv volary_root {device_a}; else setenv volary_part {root_b:x}; setenv volary_root {device_b}; fi
echo "volary: booting slot ${{volary_boot}}, trial ${{volary_trial}}"
setenv bootargs root=${{volary_root}} {arguments} volary.slot=${{volary_boot}}
{tree}
if load ${{devtype}} ${{devnum}}:${{volary_part}} ${{kernel_addr_r}} {kernel}; then
  if load ${{devtype}} ${{devnum}}:${{volary_part}} ${{ramdisk_addr_r}} {initrd}; then
    {command} ${{kernel_addr_r}} ${{ramdisk_addr_r}}:${{filesize}} ${{volary_fdt}}
  else
    {command} ${{kernel_addr_r}} - ${{volary_fdt}}
  fi
fi
echo "volary: slot ${{volary_boot}} has no kernel that can be loaded"
"#
    );
    format!(
        r#"{slot}run volary_swap
if test ${{volary_trial}} = 1; then
  setenv volary_trial 0
  setenv volary_slot ${{volary_boot}}; setenv upgrade_available 0; setenv bootcount 0
  {again}run volary_save
fi
{slot}echo "volary: neither slot can be booted; once more in 30 seconds"
sleep 30
reset
"#,
        // The kernel was loaded over what was read, and the other copy is the older one now.
        again = if disk.own_environment { "" } else { TURN_COPIES },
    )
}

/// Makes the copy that was not written the next one to be written.
const TURN_COPIES: &str = r#"if test ${volary_a} = ${volary_a1}; then setenv volary_a ${volary_a2}; setenv volary_s ${volary_s2}; else setenv volary_a ${volary_a1}; setenv volary_s ${volary_s1}; fi
  setexpr volary_f ${volary_f} + 1
  if test ${volary_f} = 100; then setenv volary_f 0; fi
  "#;

/// A script as U-Boot's `source` takes it: what `mkimage -T script` makes, without a time.
pub fn boot_scr(script: &str) -> Vec<u8> {
    let big = |number: usize| (number as u32).to_be_bytes();
    let mut data = Vec::with_capacity(script.len() + 8);
    data.extend(big(script.len()));
    data.extend(big(0));
    data.extend_from_slice(script.as_bytes());
    let mut head = Vec::with_capacity(64);
    head.extend(0x2705_1956u32.to_be_bytes());
    // The header's own checksum is made over zeros; time, address and entry are not used.
    head.extend([0; 8]);
    head.extend(big(data.len()));
    head.extend([0; 8]);
    head.extend(crc32(&data).to_be_bytes());
    // Linux, ARM, a script, not compressed.
    head.extend([5, 2, 6, 0]);
    head.extend(b"volary");
    head.resize(64, 0);
    let checksum = crc32(&head).to_be_bytes();
    head[4..8].copy_from_slice(&checksum);
    head.extend(data);
    head
}
