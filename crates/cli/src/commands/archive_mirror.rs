//! `volary archive mirror`: other archives, or parts of them, as components of rolling.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use volary_api::client::Client;
use volary_api::v1::mirror::{
    AddMirror, Asked, Definition, Filter, Mirror, MirroredPackage, Progress, Report,
};
use volary_model::{Architecture, Component, PackageName};

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, ago_or_dash, bytes};
use crate::progress::Line;

/// Between two questions how far it is.
const ASK: Duration = Duration::from_millis(300);

/// What to do with mirrors.
#[derive(Subcommand)]
pub enum MirrorCommand {
    /// Define a mirror; its first sync begins at once
    Add(Box<AddArgs>),
    /// List the mirrors
    List,
    /// Bring a mirror to the newest state now, and wait for it
    Sync {
        /// The mirror
        name: Component,
        /// Do not wait for it
        #[arg(long)]
        no_wait: bool,
    },
    /// Show what a mirror takes, what it has, and what is missing
    Show {
        /// The mirror
        name: Component,
        /// Say why this package is in
        package: Option<PackageName>,
        /// List all packages with the reason
        #[arg(long, conflicts_with = "package")]
        packages: bool,
    },
    /// Forget a mirror and take its packages out of rolling; releases keep theirs
    Remove {
        /// The mirror
        name: Component,
        /// Leave its packages in rolling
        #[arg(long)]
        keep: bool,
    },
}

/// A mirror to be.
#[derive(Args)]
pub struct AddArgs {
    /// Its name, which is also its component in rolling: debian, debian-security
    name: Component,
    /// The root of the archive (it has dists/): http://…, https://…, or a folder of the server
    #[arg(long)]
    url: String,
    /// The suite: bookworm, trixie-security
    #[arg(long)]
    suite: String,
    /// The components, separated by commas
    #[arg(long = "component", value_delimiter = ',', default_value = "main")]
    components: Vec<String>,
    /// The architectures, separated by commas; default: those of this archive
    #[arg(long = "arch", value_delimiter = ',')]
    architectures: Vec<Architecture>,
    /// The keyring whose keys may sign, armored or not; it is copied to the server
    #[arg(long, required_unless_present_any = ["key_on_server", "unsigned"])]
    key: Option<PathBuf>,
    /// A keyring on the server's machine, read at each sync
    #[arg(long, value_name = "PATH", conflicts_with = "key")]
    key_on_server: Option<String>,
    /// Take it although nobody signs it
    #[arg(long, conflicts_with_all = ["key", "key_on_server"])]
    unsigned: bool,
    /// Packages by name, separated by commas; * stands for any text
    #[arg(long = "package", value_delimiter = ',')]
    packages: Vec<String>,
    /// Packages by priority, separated by commas: required,important
    #[arg(long = "priority", value_delimiter = ',')]
    priorities: Vec<String>,
    /// Take what those depend on too
    #[arg(long)]
    closure: bool,
    /// Take what those recommend too
    #[arg(long, requires = "closure")]
    recommends: bool,
    /// Take the source packages too
    #[arg(long)]
    sources: bool,
    /// The languages of the descriptions, separated by commas
    #[arg(long = "language", value_delimiter = ',', default_value = "en")]
    languages: Vec<String>,
    /// Seconds between two syncs; 0: only when asked
    #[arg(long, default_value_t = 21_600)]
    interval: u64,
    /// Take the place of a mirror of this name
    #[arg(long)]
    replace: bool,
}

/// Runs `volary archive mirror …`.
pub fn run(command: MirrorCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        MirrorCommand::Add(args) => add(*args, &client, out),
        MirrorCommand::List => {
            let mirrors: Vec<Mirror> = client.get("/api/v1/mirrors")?;
            out.show(&mirrors, |mirrors| list(mirrors, out));
            Ok(())
        }
        MirrorCommand::Sync { name, no_wait } => sync(&name, no_wait, &client, out),
        MirrorCommand::Show { name, package, packages } => {
            if packages || package.is_some() {
                return reasons(&name, package.as_ref(), &client, out);
            }
            let mirror: Mirror = client.get(&route(&name))?;
            out.show(&mirror, |mirror| show(mirror, out));
            Ok(())
        }
        MirrorCommand::Remove { name, keep } => {
            client.delete(&format!("{}?keep={keep}", route(&name)))?;
            let rest = if keep { "its packages stay in rolling" } else { "rolling has its packages no more" };
            out.line(format!("{name} is no mirror any more; {rest}"));
            Ok(())
        }
    }
}

fn route(name: &Component) -> String {
    format!("/api/v1/mirrors/{}", encode(name.as_str()))
}

fn add(args: AddArgs, client: &Client, out: &Out) -> Result<(), Failure> {
    let keyring = args.key.as_deref().map(read_keyring).transpose()?;
    let definition = Definition {
        name: args.name,
        url: args.url,
        suite: args.suite,
        components: args.components,
        architectures: args.architectures,
        key: args.key_on_server.or_else(|| keyring.is_some().then(String::new)),
        languages: args.languages.into_iter().filter(|language| !language.is_empty()).collect(),
        interval: args.interval,
        filter: Filter {
            packages: args.packages,
            priorities: args.priorities,
            closure: args.closure,
            recommends: args.recommends,
            sources: args.sources,
        },
    };
    let request = AddMirror { definition, keyring, replace: args.replace };
    let mirror: Mirror = client.post("/api/v1/mirrors", &request)?;
    out.show(&mirror, |mirror| {
        let name = &mirror.name;
        out.line(format!(
            "{name} is a mirror; its first sync begins now, see: volary archive mirror show {name}"
        ));
    });
    Ok(())
}

/// A keyring as it goes over the wire.
pub fn read_keyring(path: &std::path::Path) -> Result<String, Failure> {
    Ok(volary_api::base64(&volary_host::read(path)?))
}

fn sync(name: &Component, no_wait: bool, client: &Client, out: &Out) -> Result<(), Failure> {
    let asked: Asked = client.post(&format!("{}/sync", route(name)), &())?;
    if no_wait {
        out.line(format!("{name} is being synced"));
        return Ok(());
    }
    let mut line = Line::new(out);
    let mirror = loop {
        let mirror: Mirror = client.get(&route(name))?;
        let is_over = mirror.last.as_ref().is_some_and(|last| last.at >= asked.at);
        if is_over && mirror.running.is_none() {
            break mirror;
        }
        line.show(&mirror.running.as_ref().map(progress).unwrap_or_default());
        std::thread::sleep(ASK);
    };
    line.end();
    let report = mirror.last.clone().unwrap_or_default();
    out.show(&mirror, |mirror| {
        if report.problem.is_none() {
            let packages = mirror.state.as_ref().map_or(0, |state| state.packages);
            out.line(format!(
                "{name} has {packages} packages: {} new, {} gone, {} fetched",
                report.added,
                report.removed,
                bytes(report.fetched)
            ));
            remarks(&report, out);
        }
    });
    match report.problem {
        None => Ok(()),
        Some(problem) => {
            let error = anyhow!("{name} was not synced: {problem}");
            Err(Failure::with_help(error, "rolling is as it was; what was fetched is kept for the next sync"))
        }
    }
}

/// How far it is, in a line.
pub fn progress(progress: &Progress) -> String {
    let Progress { step, files, bytes: count, .. } = progress;
    if files.1 == 0 {
        return if count.0 == 0 { step.clone() } else { format!("{step}: {}", bytes(count.0)) };
    }
    format!("{step}: {} of {} files, {} of {}", files.0, files.1, bytes(count.0), bytes(count.1))
}

/// What a person should know of a sync or an import that went well.
pub fn remarks(report: &Report, out: &Out) {
    for (what, items) in [
        ("missing", &report.unfulfilled),
        ("left out", &report.left_out),
        ("matches no package", &report.unmatched),
    ] {
        for item in items {
            out.line(format!("{} {item}", out.tone(Tone::Warn, what)));
        }
    }
}

fn list(mirrors: &[Mirror], out: &Out) {
    let row = |mirror: &Mirror| {
        let state = mirror.state.as_ref();
        let last = mirror.last.as_ref();
        let problem = mirror.problem.as_ref().or_else(|| last.and_then(|last| last.problem.as_ref()));
        let condition = match (problem, &mirror.running) {
            (_, Some(running)) => progress(running),
            (Some(problem), None) => problem.clone(),
            (None, None) => {
                mirror.definition.as_ref().map_or_else(String::new, |definition| definition.url.clone())
            }
        };
        vec![
            mirror.name.to_string(),
            mirror.definition.as_ref().map_or_else(|| "–".into(), |definition| definition.suite.clone()),
            state.map_or_else(|| "–".into(), |state| state.packages.to_string()),
            state.map_or_else(|| "–".into(), |state| bytes(state.bytes)),
            ago_or_dash(state.and_then(|state| state.date)),
            ago_or_dash(last.map(|last| last.at)),
            condition,
        ]
    };
    out.table(
        &["MIRROR", "SUITE", "PACKAGES", "SIZE", "DATE", "SYNCED", "WHERE"],
        mirrors.iter().map(row).collect(),
        "no mirrors yet; add one with: volary archive mirror add NAME --url URL --suite SUITE --key FILE",
    );
}

fn show(mirror: &Mirror, out: &Out) {
    let say =
        |what: &str, text: String| out.line(format!("{} {text}", out.tone(Tone::Dim, format!("{what:<10}"))));
    out.line(out.tone(Tone::Bold, mirror.name.as_str()));
    if let Some(problem) = &mirror.problem {
        say("problem", problem.clone());
    }
    if let Some(definition) = &mirror.definition {
        let architectures: Vec<&str> = definition.architectures.iter().map(Architecture::as_str).collect();
        let components = definition.components.join(" ");
        say("from", format!("{} {} {components}", definition.url, definition.suite));
        say(
            "arch",
            if architectures.is_empty() {
                "those of this archive".to_owned()
            } else {
                architectures.join(" ")
            },
        );
        say("key", definition.key.clone().unwrap_or_else(|| "none: taken unsigned".to_owned()));
        say("takes", takes(&definition.filter));
        let every = definition.interval;
        say(
            "every",
            if every == 0 {
                "only when asked".to_owned()
            } else {
                volary_plan::text::duration(Duration::from_secs(every))
            },
        );
    }
    match &mirror.state {
        Some(state) => {
            say(
                "has",
                format!("{} packages, {}, since {}", state.packages, bytes(state.bytes), ago(state.at)),
            );
            let date = state.date.map_or_else(|| "without a date".to_owned(), |date| format!("of {date}"));
            say("state", format!("{} {date} (Release {})", state.suite, state.release.short()));
        }
        None => say("has", "nothing yet".to_owned()),
    }
    if let Some(running) = &mirror.running {
        say("now", progress(running));
    }
    if let Some(last) = &mirror.last {
        let how = last.problem.clone().unwrap_or_else(|| {
            format!("{} new, {} gone, {} fetched", last.added, last.removed, bytes(last.fetched))
        });
        say("last sync", format!("{}: {how}", ago(last.at)));
        remarks(last, out);
    }
}

fn takes(filter: &Filter) -> String {
    let mut parts = Vec::new();
    if !filter.packages.is_empty() {
        parts.push(filter.packages.join(" "));
    }
    if !filter.priorities.is_empty() {
        parts.push(format!("priority {}", filter.priorities.join(" ")));
    }
    if parts.is_empty() {
        parts.push("everything".to_owned());
    }
    let also = [
        (filter.closure, "what they need"),
        (filter.recommends, "what they recommend"),
        (filter.sources, "sources"),
    ];
    parts.extend(also.into_iter().filter(|(on, _)| *on).map(|(_, what)| what.to_owned()));
    parts.join(", ")
}

fn reasons(
    name: &Component,
    package: Option<&PackageName>,
    client: &Client,
    out: &Out,
) -> Result<(), Failure> {
    let mut packages: Vec<MirroredPackage> = client.get(&format!("{}/packages", route(name)))?;
    if let Some(package) = package {
        packages.retain(|one| one.name == *package);
        if packages.is_empty() {
            return Err(Failure::with_help(
                anyhow!("{name} has no package {package}"),
                "name it in the filter: volary archive mirror add --replace --package …",
            ));
        }
    }
    out.show(&packages, |packages| {
        let row = |one: &MirroredPackage| {
            vec![
                one.name.to_string(),
                one.version.clone(),
                one.architecture.to_string(),
                bytes(one.size),
                one.reason.clone(),
            ]
        };
        out.table(
            &["PACKAGE", "VERSION", "ARCH", "SIZE", "WHY"],
            packages.iter().map(row).collect(),
            "it is empty",
        );
    });
    Ok(())
}
