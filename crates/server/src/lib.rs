//! A Volary server: composition of archive, builds, images, fleet repository, records, API and page.
//!
//! [`init()`] makes a server's folder, [`serve()`] runs it, [`pre_receive`] is what its git asks
//! before it takes a push. Handlers answer, reconcilers converge; decisions are in `volary-plan`,
//! rules of the repository in `volary-fleet`. Nothing is printed here: what happens is logged by
//! `tracing` and kept as events. Not here: the terminal, and what happens inside a device.

#![warn(missing_docs)]

mod accounts;
mod address;
mod app;
mod archive_users;
mod compared;
mod config;
mod cves;
mod depot;
mod depot_upkeep;
mod error;
mod evidence;
mod export;
mod facts;
mod feeds;
mod fleet_view;
mod forge_promotion;
mod gate_command;
mod gates;
mod hook;
mod hours;
mod housekeeping;
mod http;
mod image_deltas;
mod image_use;
mod images;
mod init;
mod key_holders;
mod known;
mod layout;
mod login_config;
mod measured;
mod measurements;
mod mender;
mod metrics_config;
mod mirrors;
mod nudge;
mod oidc;
mod promoter;
mod promotion;
mod reconcile;
mod registry;
mod release_diff;
mod repository;
mod rollouts;
mod serve;
mod standing;
mod status_hook;
mod throttle;
mod tls;
mod trial;
mod uploads;

pub use accounts::{UserChange, change_user, users};
pub use config::{AlertConfig, Config, Gc, ImageConfig, MenderConfig, SignerConfig};
pub use error::ServerError;
pub use export::{ExportConfig, ExportEvent, ExportFailure, ExportRun, export, verify_export};
pub use feeds::{
    AlertmanagerConfig, DatadogConfig, FeedsConfig, IcingaConfig, MailConfig, OtlpConfig, RemoteWriteConfig,
    WebhookConfig,
};
pub use gates::{GateError, gates};
pub use hook::{PushRefused, pre_receive};
pub use http::openapi;
pub use init::{InitOptions, Initialised, init};
pub use layout::Layout;
pub use login_config::{LoginConfig, OidcConfig};
pub use metrics_config::MetricsConfig;
pub use serve::{Running, ServeOptions, serve};
pub use status_hook::{HookKind, StatusHook};
