//! `volary source`: which repositories are built.

use clap::Subcommand;
use volary_api::v1::build::{AddSource, Source};
use volary_model::{Architecture, SourceName};

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, ago_or_dash};

/// What to do with sources.
#[derive(Subcommand)]
pub enum SourceCommand {
    /// Register a repository with Debian packaging; without URL this server hosts it
    Add {
        /// A name for it, usually the source package's
        name: SourceName,
        /// Where it is; anything that git can fetch
        url: Option<String>,
        /// The branch whose commits are built
        #[arg(long, default_value = "master")]
        branch: String,
        /// The architectures to build for, such as amd64,arm64, where debian/volary.yml in the
        /// source does not say; default: the server's usual ones
        #[arg(long, value_delimiter = ',', value_name = "ARCH,…")]
        architectures: Vec<Architecture>,
    },
    /// List the sources
    List,
    /// Look for new commits now
    Poll {
        /// The source
        name: SourceName,
    },
    /// Forget a source; its builds and packages stay
    Remove {
        /// The source
        name: SourceName,
    },
}

/// Runs `volary source …`.
pub fn run(command: SourceCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        SourceCommand::Add { name, url, branch, architectures } => {
            let request = AddSource { name, url, branch: Some(branch), architectures };
            let source: Source = client.post("/api/v1/sources", &request)?;
            out.show(&source, |source| {
                let verb = if source.hosted { "push to" } else { "polled at" };
                out.line(format!("{} is a source; {verb} {} ({})", source.name, source.url, source.branch));
            });
        }
        SourceCommand::List => {
            let sources: Vec<Source> = client.get("/api/v1/sources")?;
            out.show(&sources, |sources| list(sources, out));
        }
        SourceCommand::Poll { name } => {
            client.post::<()>(&format!("/api/v1/sources/{}/poll", encode(name.as_str())), &())?;
            out.line(format!("looking at {name}"));
        }
        SourceCommand::Remove { name } => {
            client.delete(&format!("/api/v1/sources/{}", encode(name.as_str())))?;
            out.line(format!("{name} is no source any more; its builds and packages stay"));
        }
    }
    Ok(())
}

fn list(sources: &[Source], out: &Out) {
    let rows = sources
        .iter()
        .map(|source| {
            vec![
                source.name.to_string(),
                source.branch.clone(),
                architectures(source),
                source.tip.as_ref().map_or("–".into(), |tip| tip.short().to_owned()),
                ago_or_dash(source.polled_at),
                source.problem.clone().unwrap_or_else(|| source.url.clone()),
            ]
        })
        .collect();
    out.table(
        &["SOURCE", "BRANCH", "ARCH", "TIP", "LOOKED AT", "WHERE"],
        rows,
        "no sources yet; add one with: volary source add NAME URL",
    );
}

/// A dash stands for the server's own architecture.
fn architectures(source: &Source) -> String {
    match &source.architectures[..] {
        [] => "–".to_owned(),
        some => some.iter().map(Architecture::as_str).collect::<Vec<_>>().join(","),
    }
}
