//! `volary token`: access for people and programs.

use clap::{Subcommand, ValueEnum};
use volary_api::v1::fleet::{NewToken, Role, Token, TokenSecret, UploadLimits};
use volary_model::{Component, GateName};

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, ago, ago_or_dash};

/// What to do with tokens.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token; its secret is shown this once
    Add {
        /// Who or what will use it
        name: String,
        /// What it may do
        #[arg(long, value_enum, default_value_t = RoleArg::Viewer)]
        role: RoleArg,
        /// With --role upload: only packages of these names, with * and ?
        #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
        packages: Vec<String>,
        /// With --role upload: only into these components of rolling, such as main; debug symbols
        /// stand in debug
        #[arg(long, value_name = "COMPONENT", value_delimiter = ',')]
        components: Vec<Component>,
        /// With --role gate: the gates that it may speak for
        #[arg(long, value_name = "GATE", value_delimiter = ',')]
        gates: Vec<GateName>,
    },
    /// List the tokens
    List,
    /// Take a token back
    Remove {
        /// Its name
        name: String,
    },
}

/// The roles as words of the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// Everything
    Admin,
    /// What developers and operators may; merge on the page, let a rollout go on
    ReleaseManager,
    /// See everything; accept and reject devices, silence alerts, stop a rollout
    Operator,
    /// See everything; push, include, cut, pick, freeze
    Developer,
    /// See everything, change nothing
    Viewer,
    /// Upload packages, and nothing else
    Upload,
    /// Say what some external gates say of commits, and nothing else
    Gate,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::ReleaseManager => Self::ReleaseManager,
            RoleArg::Operator => Self::Operator,
            RoleArg::Developer => Self::Developer,
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Upload => Self::Upload,
            RoleArg::Gate => Self::Gate,
        }
    }
}

/// Runs `volary token …`.
pub fn run(command: TokenCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        TokenCommand::Add { name, role, packages, components, gates } => {
            let limits = UploadLimits { packages, components, gates };
            let limits = (limits != UploadLimits::default()).then_some(limits);
            let token = NewToken { name, role: role.into(), limits };
            let secret: TokenSecret = client.post("/api/v1/tokens", &token)?;
            out.show(&secret, |secret| out.line(&secret.secret));
        }
        TokenCommand::List => {
            let tokens: Vec<Token> = client.get("/api/v1/tokens")?;
            out.show(&tokens, |tokens| {
                let rows = tokens
                    .iter()
                    .map(|token| {
                        let role = role_word(token.role).to_owned();
                        let (made, used) = (ago(token.created_at), ago_or_dash(token.used_at));
                        vec![token.name.clone(), role, limits(token.limits.as_ref()), made, used]
                    })
                    .collect();
                out.table(&["TOKEN", "ROLE", "LIMITS", "MADE", "USED"], rows, "no tokens");
            });
        }
        TokenCommand::Remove { name } => {
            client.delete(&format!("/api/v1/tokens/{}", encode(&name)))?;
            out.line(format!("{name} has no access any more"));
        }
    }
    Ok(())
}

/// A role as the command line spells it.
pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::ReleaseManager => "release-manager",
        Role::Operator => "operator",
        Role::Developer => "developer",
        Role::Viewer => "viewer",
        Role::Upload => "upload",
        Role::Gate => "gate",
    }
}

fn limits(limits: Option<&UploadLimits>) -> String {
    let Some(limits) = limits else { return "–".into() };
    if !limits.gates.is_empty() {
        return limits.gates.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    }
    let packages = if limits.packages.is_empty() { "any package".into() } else { limits.packages.join(" ") };
    let components: Vec<&str> = limits.components.iter().map(Component::as_str).collect();
    if components.is_empty() { packages } else { format!("{packages} in {}", components.join(" ")) }
}
