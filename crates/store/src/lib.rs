//! The server's records: sources, builds, images, devices, reports, alerts, tokens, users, events.
//!
//! One SQLite file in write-ahead mode, one writer and a few readers. No SQL leaves this crate;
//! what comes out are typed records. The statements use `$1` and no dialect, so that PostgreSQL
//! can take the same text with migrations of its own. Not here: HTTP, planning, processes, and
//! what a report means: its JSON is kept as the text that came. Measurements have a file of their own:
//! [`Series`].

#![warn(missing_docs)]

mod alert;
mod branch;
mod build;
mod db;
mod device;
mod event;
mod feed;
mod gate;
mod image;
mod mender;
mod rebuild;
mod report;
mod reproduction;
mod rollout;
mod series;
mod setting;
mod source;
mod status;
mod token;
mod turn;
mod user;

pub use alert::{AlertChange, AlertStep, NewSilence, StoredAlert, StoredSilence};
pub use branch::Branch;
pub use build::{Build, BuildState, NewBuild};
pub use db::{Store, StoreError};
pub use device::{Client, Device, DeviceChanges, DeviceState, Enrolling, Enrolment, JoinRefusal};
pub use event::{By, Event, NewEvent};
pub use feed::{FeedRecord, Leaves, Message, NewMessage};
pub use gate::GateWord;
pub use image::{Added, Image};
pub use mender::{Deployment, DeploymentState, MenderDevice};
pub use rebuild::{BuildFacts, NewRebuild};
pub use report::{NewReport, Sighting, StoredReport};
pub use reproduction::{Reproduction, ReproductionState};
pub use rollout::Rollout;
pub use series::{
    AppendError, Appended, JournalLine, Latest, LatestOf, NewBatch, NewSamples, Series, SeriesOptions,
    SeriesStats, Tail, TailRequest, TailSeries, Value,
};
pub use source::Source;
pub use status::{Status, Untold};
pub use token::Token;
pub use turn::{NewTurn, Turn};
pub use user::{NewSession, Session, User};
