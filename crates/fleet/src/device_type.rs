//! `device-types/NAME.yml`: how the image of a device type is made. `docs/device-types.md` explains it to
//! people.

use std::collections::BTreeMap;
use std::time::Duration;

use volary_model::{
    AptSource, Architecture, ArchiveSource, BootFile, BootLoader, Mirror, PackageName, Recipe,
};

use crate::fields::{FieldError, Fields, did_you_mean};
use crate::yaml::Value;

/// The folder of the fleet repository with one file for each device type.
pub const DEVICE_TYPES: &str = "device-types";

/// Everything that may stand in the file.
const KEYS: [&str; 17] = [
    "version",
    "architecture",
    "suite",
    "mirror",
    "components",
    "archive",
    "sources",
    "packages",
    "kernel",
    "modules",
    "command_line",
    "loader",
    "device_tree",
    "partitions",
    "playbook",
    "boot_files",
    "watchdog",
];

const MIB: u64 = 1 << 20;

/// The smallest FAT32 that every firmware takes, with room for what is on it.
const SMALLEST_BOOT: u64 = 40 * MIB;

/// Longer than any boot; shorter than what somebody in front of the device waits.
const DEFAULT_WATCHDOG: Duration = Duration::from_secs(60);

/// Parses the text of `device-types/NAME.yml`.
///
/// # Errors
/// [`FieldError`] with line, field and remedy.
pub fn parse_device_type(text: &str) -> Result<Recipe, FieldError> {
    let root = crate::yaml::parse(text).map_err(FieldError::from)?;
    let fields = Fields::new(&root, "", &KEYS)?;
    fields.version()?;
    let architecture: Architecture = fields.parsed("architecture")?;
    let loader = loader(&fields, &architecture)?;
    let kernel = match fields.get("kernel") {
        Some(_) => fields.parsed("kernel")?,
        None => default_kernel(&fields, &architecture)?,
    };
    let archive = archive(&fields)?;
    let sources = sources(&fields)?;
    let mirror = mirror(&fields, archive.is_some() || !sources.is_empty())?;
    let partitions = partitions(&fields, loader)?;
    Ok(Recipe {
        suite: plain(&fields, "suite", "a codename of Debian, as bookworm")?.to_owned(),
        mirror,
        components: components(&fields, "main")?,
        archive,
        sources,
        packages: packages(&fields)?,
        kernel,
        modules: words(&fields, "modules", "module", "write names as softdog", &[])?,
        command_line: command_line(&fields)?,
        loader,
        device_tree: device_tree(&fields)?,
        gpt: partitions.gpt,
        boot_size: partitions.boot,
        root_size: partitions.root,
        data_size: partitions.data,
        playbook: optional(&fields, "playbook", |fields| file_name(fields, "playbook"))?,
        boot_files: boot_files(&fields)?,
        watchdog: watchdog(&fields)?,
        architecture,
    })
}

fn optional<T>(
    fields: &Fields<'_>,
    name: &str,
    read: impl FnOnce(&Fields<'_>) -> Result<T, FieldError>,
) -> Result<Option<T>, FieldError> {
    fields.get(name).map(|_| read(fields)).transpose()
}

/// A word that can stand in a line of an apt source.
fn plain<'a>(fields: &Fields<'a>, name: &str, wanted: &str) -> Result<&'a str, FieldError> {
    let text = fields.text(name)?;
    if is_plain(text) {
        Ok(text)
    } else {
        Err(fields.complain(name, format!("{text:?} is not {wanted}"), "use letters, digits and -._/ only"))
    }
}

fn is_plain(text: &str) -> bool {
    !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/+~".contains(&byte))
}

fn loader(fields: &Fields<'_>, architecture: &Architecture) -> Result<BootLoader, FieldError> {
    const LOADERS: [&str; 3] = ["grub-efi", "u-boot", "raspberrypi"];
    let Some(_) = fields.get("loader") else {
        return Ok(match architecture.as_str() {
            "amd64" | "i386" => BootLoader::GrubEfi,
            _ => BootLoader::UBoot,
        });
    };
    let loader = match fields.text("loader")? {
        "grub-efi" => BootLoader::GrubEfi,
        "u-boot" => BootLoader::UBoot,
        "raspberrypi" => BootLoader::RaspberryPi,
        other => {
            let message = format!("the boot loader {other:?} is unknown");
            return Err(fields.complain("loader", message, did_you_mean(other, &LOADERS)));
        }
    };
    let fits = match loader {
        BootLoader::GrubEfi => matches!(architecture.as_str(), "amd64" | "i386" | "arm64" | "armhf"),
        BootLoader::UBoot | BootLoader::RaspberryPi => matches!(architecture.as_str(), "arm64" | "armhf"),
    };
    if fits {
        Ok(loader)
    } else {
        let message = format!("it does not start {architecture}");
        Err(fields.complain("loader", message, format!("known are {}", LOADERS.join(", "))))
    }
}

fn default_kernel(fields: &Fields<'_>, architecture: &Architecture) -> Result<PackageName, FieldError> {
    let name = match architecture.as_str() {
        "amd64" => "linux-image-amd64",
        "arm64" => "linux-image-arm64",
        "armhf" => "linux-image-armmp",
        "i386" => "linux-image-686",
        _ => {
            let remedy = "write `kernel: PACKAGE`";
            return Err(fields.complain("kernel", format!("none is known for {architecture}"), remedy));
        }
    };
    Ok(name.parse().expect("the names above are names of packages"))
}

fn url(fields: &Fields<'_>, name: &str) -> Result<String, FieldError> {
    let text = fields.text(name)?;
    let is_url = ["https://", "http://", "file:///"].iter().any(|scheme| text.starts_with(scheme));
    if is_url && !text.contains(char::is_whitespace) && !text.contains(['[', ']', '"']) {
        Ok(text.to_owned())
    } else {
        let remedy = "write it as https://host/path";
        Err(fields.complain(name, format!("{text:?} is no address of an archive"), remedy))
    }
}

fn mirror(fields: &Fields<'_>, has_others: bool) -> Result<Mirror, FieldError> {
    match fields.get("mirror").map(|_| fields.text("mirror")).transpose()? {
        None => Ok(Mirror::Default),
        Some("none") if has_others => Ok(Mirror::None),
        Some("none") => {
            let remedy = "give `archive:` or `sources:` that have all of Debian, or another mirror";
            Err(fields.complain("mirror", "without a mirror there is nothing to install from", remedy))
        }
        Some(_) => url(fields, "mirror").map(Mirror::Url),
    }
}

fn components(fields: &Fields<'_>, default: &str) -> Result<Vec<String>, FieldError> {
    words(fields, "components", "component", "write main", &[default])
}

/// A list of plain words, or what stands for it.
fn words(
    fields: &Fields<'_>,
    name: &str,
    what: &str,
    remedy: &str,
    default: &[&str],
) -> Result<Vec<String>, FieldError> {
    if fields.get(name).is_none() {
        return Ok(default.iter().map(|&word| word.to_owned()).collect());
    }
    let words = fields.texts(name)?;
    match words.iter().find(|(word, _)| !is_plain(word)) {
        Some((word, line)) => Err(fields.complain_at(*line, name, format!("{word:?} is no {what}"), remedy)),
        None => Ok(words.into_iter().map(|(word, _)| word.to_owned()).collect()),
    }
}

fn archive(fields: &Fields<'_>) -> Result<Option<ArchiveSource>, FieldError> {
    if fields.get("archive").is_none() {
        return Ok(None);
    }
    let of = fields.map("archive", &["url", "key", "components", "suite"])?;
    Ok(Some(ArchiveSource {
        url: url(&of, "url")?,
        key: file_name(&of, "key")?,
        components: components(&of, "main")?,
        suite: optional(&of, "suite", |of| of.parsed("suite"))?,
    }))
}

fn sources(fields: &Fields<'_>) -> Result<Vec<AptSource>, FieldError> {
    let Some(node) = fields.get("sources") else { return Ok(Vec::new()) };
    let Value::List(items) = &node.value else {
        let remedy = "write one `- url: …` for each";
        return Err(fields.complain("sources", "this is not a list", remedy));
    };
    let source = |(index, item)| {
        let of = Fields::new(item, &format!("sources[{index}]"), &["url", "suite", "components", "key"])?;
        Ok(AptSource {
            url: url(&of, "url")?,
            suite: plain(&of, "suite", "a suite")?.to_owned(),
            components: components(&of, "main")?,
            key: optional(&of, "key", |of| file_name(of, "key"))?,
        })
    };
    items.iter().enumerate().map(source).collect()
}

fn packages(fields: &Fields<'_>) -> Result<Vec<PackageName>, FieldError> {
    if fields.get("packages").is_none() {
        return Ok(Vec::new());
    }
    let name = |(text, line): (&str, usize)| {
        text.parse().map_err(|error| fields.complain_at(line, "packages", format!("{error}"), ""))
    };
    fields.texts("packages")?.into_iter().map(name).collect()
}

fn command_line(fields: &Fields<'_>) -> Result<Vec<String>, FieldError> {
    if fields.get("command_line").is_none() {
        return Ok(Vec::new());
    }
    let words: Vec<&str> = fields.text("command_line")?.split_whitespace().collect();
    // What no boot loader's shell gives a meaning to.
    let fits = |word: &&&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.,:=/+@%".contains(c));
    let own = |word: &&&str| ["root=", "volary.", "panic="].iter().any(|start| word.starts_with(start));
    if let Some(word) = words.iter().find(own) {
        let remedy = "leave it out: the image says it itself";
        return Err(fields.complain("command_line", format!("{word} cannot be chosen"), remedy));
    }
    match words.iter().find(|word| !fits(word)) {
        Some(word) => {
            let remedy = "use letters, digits and -_.,:=/+@% in each word";
            Err(fields.complain("command_line", format!("{word:?} cannot stand in a boot script"), remedy))
        }
        None => Ok(words.into_iter().map(str::to_owned).collect()),
    }
}

fn device_tree(fields: &Fields<'_>) -> Result<Option<String>, FieldError> {
    optional(fields, "device_tree", |fields| {
        let text = plain(fields, "device_tree", "a path in the root")?;
        if text.starts_with('/') {
            Ok(text.to_owned())
        } else {
            let remedy = "begin it with a slash: it is a path in the root file system";
            Err(fields.complain("device_tree", "this is no absolute path", remedy))
        }
    })
}

struct Partitions {
    gpt: bool,
    boot: u64,
    root: u64,
    data: u64,
}

fn partitions(fields: &Fields<'_>, loader: BootLoader) -> Result<Partitions, FieldError> {
    let is_pi = loader == BootLoader::RaspberryPi;
    // The first models of the Raspberry Pi read MBR only.
    let mut partitions = Partitions {
        gpt: !is_pi,
        boot: if is_pi { 256 } else { 64 } * MIB,
        root: 2048 * MIB,
        data: 64 * MIB,
    };
    if fields.get("partitions").is_none() {
        return Ok(partitions);
    }
    let of = fields.map("partitions", &["table", "boot", "root", "data"])?;
    if of.get("table").is_some() {
        partitions.gpt = match of.text("table")? {
            "gpt" => true,
            "mbr" => false,
            other => {
                let message = format!("the partition table {other:?} is unknown");
                return Err(of.complain("table", message, "write gpt or mbr"));
            }
        };
    }
    for (name, size, least) in [
        ("boot", &mut partitions.boot, SMALLEST_BOOT),
        ("root", &mut partitions.root, 256 * MIB),
        ("data", &mut partitions.data, 16 * MIB),
    ] {
        if of.get(name).is_none() {
            continue;
        }
        let text = of.text(name)?;
        let remedy = format!("write at least {}M, as 512M or 2G (MiB and GiB)", least / MIB);
        let written = bytes(text).filter(|size| (least..=1 << 40).contains(size));
        *size = written.ok_or_else(|| of.complain(name, format!("{text:?} is no size for it"), remedy))?;
    }
    Ok(partitions)
}

/// A number and `M` or `G`.
fn bytes(text: &str) -> Option<u64> {
    let unit = match text.bytes().last()? {
        b'M' => MIB,
        b'G' => 1024 * MIB,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The path of a file in the fleet repository.
fn file_name(fields: &Fields<'_>, name: &str) -> Result<String, FieldError> {
    let text = fields.text(name)?;
    if is_inside(text) && is_plain(text) {
        Ok(text.to_owned())
    } else {
        let remedy = "write a path in the fleet repository, as files/key.asc";
        Err(fields.complain(name, format!("{text:?} is no file of the fleet repository"), remedy))
    }
}

fn is_inside(path: &str) -> bool {
    path.split('/').all(|part| !part.is_empty() && part != "." && part != "..") && !path.contains('\0')
}

fn boot_files(fields: &Fields<'_>) -> Result<BTreeMap<String, BootFile>, FieldError> {
    let mut files = BTreeMap::new();
    if fields.get("boot_files").is_none() {
        return Ok(files);
    }
    for (target, line, node) in fields.entries("boot_files")? {
        let complain = |message: String, remedy: &str| {
            fields.complain_at(line, &format!("boot_files.{target}"), message, remedy)
        };
        // FAT refuses these.
        if !is_inside(target.trim_end_matches('/'))
            || target.contains(['"', '*', ':', '<', '>', '?', '\\', '|'])
        {
            return Err(complain("this is no path on the boot partition".into(), "write it as folder/file"));
        }
        let source = match &node.value {
            Value::Scalar(text) if !text.is_empty() => text,
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => {
                return Err(complain("there is no source".into(), "write one path after the colon"));
            }
        };
        let file = match source.strip_prefix('/') {
            Some(rest) if is_inside(rest.trim_end_matches('/')) => BootFile::Root(source.clone()),
            None if is_inside(source) => BootFile::Fleet(source.clone()),
            Some(_) | None => {
                let remedy = "write a file of the fleet repository, or an absolute path in the root";
                return Err(complain(format!("{source:?} is no path of a file"), remedy));
            }
        };
        if matches!(&file, BootFile::Root(path) if path.ends_with('/')) != target.ends_with('/') {
            let remedy = "end both with a slash, or neither";
            return Err(complain("a folder goes into a folder".into(), remedy));
        }
        files.insert(target.to_owned(), file);
    }
    Ok(files)
}

fn watchdog(fields: &Fields<'_>) -> Result<Duration, FieldError> {
    match fields.get("watchdog").map(|_| fields.text("watchdog")).transpose()? {
        None => Ok(DEFAULT_WATCHDOG),
        Some("off") => Ok(Duration::ZERO),
        Some(_) => fields.duration("watchdog", Duration::from_secs(10), Duration::from_secs(600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "version: 1\narchitecture: amd64\nsuite: bookworm\n";

    #[test]
    fn three_lines_are_enough() {
        let recipe = parse_device_type(SMALL).unwrap();
        assert_eq!(recipe.kernel.as_str(), "linux-image-amd64");
        assert_eq!((recipe.loader, recipe.gpt, recipe.mirror), (BootLoader::GrubEfi, true, Mirror::Default));
        assert_eq!((recipe.boot_size, recipe.root_size, recipe.data_size), (64 * MIB, 2048 * MIB, 64 * MIB));
    }

    #[test]
    fn the_examples_are_sound() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/device-types");
        let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yml")).collect();
        assert_eq!(files.len(), 3);
        for file in files {
            let parsed = parse_device_type(&volary_host::read_to_string(&file).unwrap());
            assert_eq!(parsed.err(), None, "{}", file.display());
        }
    }

    #[test]
    fn everything_can_be_said() {
        let recipe = parse_device_type(
            "version: 1\narchitecture: arm64\nsuite: trixie\nmirror: none\nloader: raspberrypi\n\
             kernel: linux-image-rt-arm64\ncommand_line: console=ttyS1,115200 quiet\ndevice_tree: /boot/x.dtb\n\
             components: [main, non-free-firmware]\n\
             archive: {url: https://a.example/archive, key: keys/a.asc, suite: v1.3/r2}\n\
             sources:\n- url: https://b.example/debian\n  suite: stable\n  key: keys/b.asc\n\
             partitions: {table: gpt, boot: 128M, root: 3G, data: 100M}\n\
             packages: [openssh-server, vim]\nmodules: softdog\nplaybook: image.yml\nwatchdog: 15s\n\
             boot_files:\n  config.txt: files/config.txt\n  overlays/: /usr/lib/raspi-firmware/overlays/\n",
        )
        .unwrap();
        assert_eq!(recipe.command_line, ["console=ttyS1,115200", "quiet"]);
        assert_eq!(recipe.modules, ["softdog"]);
        assert_eq!(recipe.archive.unwrap().suite.unwrap().to_string(), "v1.3/r2");
        assert_eq!(recipe.sources[0].key.as_deref(), Some("keys/b.asc"));
        assert_eq!((recipe.gpt, recipe.root_size), (true, 3 << 30));
        assert_eq!(
            recipe.boot_files["overlays/"],
            BootFile::Root("/usr/lib/raspi-firmware/overlays/".into())
        );
        assert_eq!(recipe.watchdog, Duration::from_secs(15));
    }

    #[test]
    fn complaints_name_line_field_and_remedy() {
        let check = |more: &str, expected: &str| {
            let error = parse_device_type(&format!("{SMALL}{more}\n")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        check("kernl: x", "line 4, kernl: the key \"kernl\" is unknown; did you mean \"kernel\"?");
        check("loader: lilo", "line 4, loader: the boot loader \"lilo\" is unknown; known are");
        check("loader: u-boot", "line 4, loader: it does not start amd64");
        check("mirror: none", "line 4, mirror: without a mirror");
        check("mirror: ftp://x", "line 4, mirror: \"ftp://x\" is no address of an archive");
        check(
            "partitions: {root: 2000}",
            "line 4, partitions.root: \"2000\" is no size for it; write at least 256M",
        );
        check("packages: [A]", "line 4, packages: ");
        check("playbook: ../x.yml", "line 4, playbook: \"../x.yml\" is no file of the fleet repository");
        check("command_line: a $b", "line 4, command_line: \"$b\" cannot stand in a boot script");
        check("command_line: root=/dev/sda", "cannot be chosen; leave it out");
        check("boot_files:\n  a: /x/", "line 5, boot_files.a: a folder goes into a folder");
        check("archive: {url: https://a}", "line 4, archive.key: the key \"key\" is missing");
        check("sources: [{url: https://a, suite: -x}]", "sources[0].suite: \"-x\" is not a suite");
    }
}
