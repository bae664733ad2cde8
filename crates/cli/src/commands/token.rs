//! `volary token`: access for people and programs.

use clap::{Subcommand, ValueEnum};
use volary_api::v1::fleet::{NewToken, Role, Token, TokenSecret};

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
    /// See everything; push, include, cut, pick, freeze
    Developer,
    /// See everything, change nothing
    Viewer,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::Developer => Self::Developer,
            RoleArg::Viewer => Self::Viewer,
        }
    }
}

/// Runs `volary token …`.
pub fn run(command: TokenCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        TokenCommand::Add { name, role } => {
            let secret: TokenSecret = client.post("/api/v1/tokens", &NewToken { name, role: role.into() })?;
            out.show(&secret, |secret| out.line(&secret.secret));
        }
        TokenCommand::List => {
            let tokens: Vec<Token> = client.get("/api/v1/tokens")?;
            out.show(&tokens, |tokens| {
                let rows = tokens
                    .iter()
                    .map(|token| {
                        let role = format!("{:?}", token.role).to_lowercase();
                        vec![token.name.clone(), role, ago(token.created_at), ago_or_dash(token.used_at)]
                    })
                    .collect();
                out.table(&["TOKEN", "ROLE", "MADE", "USED"], rows, "no tokens");
            });
        }
        TokenCommand::Remove { name } => {
            client.delete(&format!("/api/v1/tokens/{}", encode(&name)))?;
            out.line(format!("{name} has no access any more"));
        }
    }
    Ok(())
}
