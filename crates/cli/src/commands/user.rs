//! `volary user`, `login`, `logout`, `me`: people with a password.

use std::io::{BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use volary_api::v1::fleet::Role;
use volary_api::v1::user::{How, LoggedIn, Login, Me, NewPassword, NewRole, NewUser, Session, User};
use volary_server::{UserChange, change_user};

use super::encode;
use super::token::{RoleArg, role_word};
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, ago, ago_or_dash};

/// What to do with people's accounts. A password is asked for on a terminal, else it is the first line of
/// standard input.
#[derive(Subcommand)]
pub enum UserCommand {
    /// Make an account
    Add {
        /// Its name, as records of what the person does show it
        name: String,
        /// What the person may do
        #[arg(long, value_enum, default_value_t = RoleArg::Viewer)]
        role: RoleArg,
        #[command(flatten)]
        at: At,
    },
    /// List the accounts
    List {
        #[command(flatten)]
        at: At,
    },
    /// Set a password; other sessions of the account end
    Passwd {
        /// Its name
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Give an account another role, from now on
    Role {
        /// Its name
        name: String,
        /// What the person may do
        #[arg(value_enum)]
        role: RoleArg,
        #[command(flatten)]
        at: At,
    },
    /// Take an account away, and end its sessions
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// List who is signed in
    Sessions,
    /// End a session
    EndSession {
        /// Its number, as `volary user sessions` shows it
        id: i64,
    },
}

/// On which side.
#[derive(Args)]
pub struct At {
    /// On the server itself: its folder, without asking the server
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Options of `volary login`.
#[derive(Args)]
pub struct LoginArgs {
    /// The account
    user: String,
}

/// Runs `volary user …`.
pub fn run(command: UserCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    match command {
        UserCommand::Add { name, role, at } => {
            let password = new_password(&name)?;
            let role: Role = role.into();
            match at.dir {
                Some(dir) => change_user(&dir, &name, UserChange::Add { role, password })?,
                None => {
                    let new = NewUser { name: name.clone(), role, password };
                    connection.client()?.post::<()>("/api/v1/users", &new)?;
                }
            }
            out.line(format!("{name} may sign in, as {}", role_word(role)));
        }
        UserCommand::List { at } => {
            let users: Vec<User> = match at.dir {
                Some(dir) => volary_server::users(&dir)?,
                None => connection.client()?.get("/api/v1/users")?,
            };
            out.show(&users, |users| {
                let row = |user: &User| {
                    let (made, set) = (ago(user.created_at), ago(user.password_at));
                    let role = role_word(user.role).to_owned();
                    vec![user.name.clone(), role, made, set, ago_or_dash(user.used_at)]
                };
                let headers = ["USER", "ROLE", "MADE", "PASSWORD", "USED"];
                out.table(&headers, users.iter().map(row).collect(), "no users");
            });
        }
        UserCommand::Passwd { name, at } => {
            match at.dir {
                Some(dir) => change_user(&dir, &name, UserChange::Password(new_password(&name)?))?,
                None => {
                    let client = connection.client()?;
                    let me: Me = client.get("/api/v1/me")?;
                    let own = me.how == How::Password && me.name == name;
                    let old = own.then(|| read_password("password until now: ")).transpose()?;
                    let new = NewPassword { password: new_password(&name)?, old };
                    client.post::<()>(&format!("/api/v1/users/{}/password", encode(&name)), &new)?;
                }
            }
            out.line(format!("{name} has another password; other sessions ended"));
        }
        UserCommand::Role { name, role, at } => {
            let role: Role = role.into();
            match at.dir {
                Some(dir) => change_user(&dir, &name, UserChange::Role(role))?,
                None => {
                    let path = format!("/api/v1/users/{}/role", encode(&name));
                    connection.client()?.post::<()>(&path, &NewRole { role })?;
                }
            }
            out.line(format!("{name} is {} from now on", role_word(role)));
        }
        UserCommand::Remove { name, at } => {
            match at.dir {
                Some(dir) => change_user(&dir, &name, UserChange::Remove)?,
                None => connection.client()?.delete(&format!("/api/v1/users/{}", encode(&name)))?,
            }
            out.line(format!("{name} has no account any more"));
        }
        UserCommand::Sessions => {
            let sessions: Vec<Session> = connection.client()?.get("/api/v1/sessions")?;
            out.show(&sessions, |sessions| {
                let row = |session: &Session| {
                    let own = if session.own { " (this one)" } else { "" };
                    vec![
                        session.id.to_string(),
                        format!("{}{own}", session.person),
                        how(session.how).to_owned(),
                        role_word(session.role).to_owned(),
                        ago(session.created_at),
                        ago(session.used_at),
                        format!("{:.0}", session.expires_at),
                    ]
                };
                let headers = ["SESSION", "PERSON", "BY", "ROLE", "SIGNED IN", "USED", "ENDS"];
                out.table(&headers, sessions.iter().map(row).collect(), "nobody is signed in");
            });
        }
        UserCommand::EndSession { id } => {
            connection.client()?.delete(&format!("/api/v1/sessions/{id}"))?;
            out.line(format!("session {id} is over"));
        }
    }
    Ok(())
}

/// Runs `volary login`.
pub fn login(args: &LoginArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let password = read_password(&format!("password of {}: ", args.user))?;
    let asked = Login { user: args.user.clone(), password };
    let session: LoggedIn = client.post("/api/v1/login", &asked)?;
    let path = connection.keep_token(Some(&session.secret))?;
    let me = Me {
        name: session.user,
        role: session.role,
        how: How::Password,
        subject: None,
        expires_at: Some(session.expires_at),
    };
    out.show(&me, |me| {
        out.line(format!(
            "{} is signed in as {} until {:.0}; the session is in {}",
            me.name,
            role_word(me.role),
            session.expires_at,
            path.display()
        ));
    });
    Ok(())
}

/// Runs `volary logout`.
pub fn logout(connection: &Connection, out: &Out) -> Result<(), Failure> {
    connection.client()?.post::<()>("/api/v1/logout", &serde_json::json!({}))?;
    let path = connection.keep_token(None)?;
    out.line(format!("the session is over, and {} has no token any more", path.display()));
    Ok(())
}

/// Runs `volary me`.
pub fn me(connection: &Connection, out: &Out) -> Result<(), Failure> {
    let me: Me = connection.client()?.get("/api/v1/me")?;
    out.show(&me, |me| {
        let until = me.expires_at.map(|at| format!(", until {at:.0}")).unwrap_or_default();
        out.line(format!("{}, {} by {}{until}", me.name, role_word(me.role), how(me.how)));
    });
    Ok(())
}

/// How somebody signed in, as a word.
pub fn how(how: How) -> &'static str {
    match how {
        How::Token => "token",
        How::Password => "password",
        How::Oidc => "oidc",
    }
}

/// A new password for an account: on a terminal typed twice.
fn new_password(name: &str) -> Result<String, Failure> {
    let password = read_password(&format!("new password of {name}: "))?;
    if std::io::stdin().is_terminal() && read_password("once more: ")? != password {
        return Err(anyhow::anyhow!("the password was typed in two ways; nothing was changed").into());
    }
    Ok(password)
}

/// A line that a terminal does not show while it is typed.
fn read_password(prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let mut line = String::new();
    if !stdin.is_terminal() {
        stdin.lock().read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let shown = tcgetattr(stdin.as_fd()).map_err(std::io::Error::from)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(stdin.as_fd(), OptionalActions::Now, &hidden).map_err(std::io::Error::from)?;
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(stdin.as_fd(), OptionalActions::Now, &shown).map_err(std::io::Error::from)?;
    writeln!(stderr)?;
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
