//! The stages as the fleet repository has them now. Read as a whole, replaced as a whole.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;

use volary_fleet::{
    CONFIG_FILE, FleetConfig, FleetLock, Freeze, Gates, GitRepository, Images, LOCK_FILE, Moment, ObjectId,
    ObjectSource, Percent, ReadObjects, Rules, Waves, Windows, file_at,
};
use volary_model::{CommitId, StageName, Suite};
use volary_plan::rollout::Policy;

use crate::Layout;

/// One stage.
#[derive(Debug, Clone)]
pub(crate) struct StageView {
    /// Its name.
    pub(crate) name: StageName,
    /// Its branch.
    pub(crate) branch: String,
    /// The stage that is merged into it; the first has none.
    pub(crate) from: Option<StageName>,
    /// The branch's tip; `None` if there is no such branch yet.
    pub(crate) tip: Option<Tip>,
    /// The suite it takes packages from.
    pub(crate) suite: Option<Suite>,
    /// The images it pins.
    pub(crate) images: Images,
    /// How its devices ask.
    pub(crate) rhythm: Rhythm,
    /// How its devices may change.
    pub(crate) pace: Pace,
    /// When they may, in words.
    pub(crate) when: When,
}

/// How devices ask for news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// How often.
    pub(crate) poll: Duration,
    /// How long a question stays open; not at all if zero.
    pub(crate) long_poll: Duration,
}

impl Rhythm {
    fn of(config: &FleetConfig) -> Self {
        Self { poll: config.poll, long_poll: config.long_poll }
    }
}

/// How the devices of a stage may change, by the commit that they go for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pace {
    /// How many of one site at once; `None` if that is not bounded.
    pub(crate) per_site_at_most: Option<u32>,
    /// In which waves; `None` for all at once.
    pub(crate) waves: Option<Policy>,
    /// How long a convergence may take.
    pub(crate) run_within: Duration,
    /// How long it is watched.
    pub(crate) confirm_within: Duration,
}

impl Pace {
    /// What the configuration says of a stage.
    pub(crate) fn of(config: &FleetConfig, stage: &StageName) -> Self {
        let rollout = config.rollout_of(stage);
        Self {
            per_site_at_most: rollout.and_then(|rollout| rollout.per_site_at_most),
            waves: rollout.and_then(|rollout| rollout.waves.as_ref()).map(waves),
            run_within: config.run_within_of(stage),
            confirm_within: config.confirm_of(stage),
        }
    }
}

fn waves(waves: &Waves) -> Policy {
    let percent = |share: Percent| f64::from(share.hundredths()) / 100.0;
    Policy {
        waves: waves.shares.iter().map(|share| share.hundredths()).collect(),
        pause: waves.pause,
        stop_above: percent(waves.stop_above),
        silent_at_most: percent(waves.silent_at_most),
    }
}

/// When the devices of a stage may change, for people. Whether that is now is decided by each device,
/// on its own clock; for devices without our agent it is decided here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct When {
    /// Why the stage is stopped, if it is.
    pub(crate) stop: Option<String>,
    /// The freezes that are not over everywhere.
    pub(crate) freezes: Vec<String>,
    /// The windows; empty if there are none.
    pub(crate) windows: String,
    /// All freezes, as they stand there.
    pub(crate) all_freezes: Vec<Freeze>,
    /// The windows, as they stand there.
    pub(crate) hours: Option<Windows>,
}

impl When {
    /// What the configuration says of a stage.
    fn of(config: &FleetConfig, stage: &StageName, now: Timestamp) -> Self {
        let windows = config.windows_of(stage).map(|windows| {
            let hours: Vec<String> = windows.install.iter().map(ToString::to_string).collect();
            format!("{}, time zone: {}", hours.join("; "), windows.zone)
        });
        let comes = |freeze: &&Freeze| latest(freeze.until) > now;
        Self {
            stop: config.stop_of(stage).map(str::to_owned),
            freezes: config.freezes_of(stage).filter(comes).map(freeze_text).collect(),
            windows: windows.unwrap_or_default(),
            all_freezes: config.freezes_of(stage).cloned().collect(),
            hours: config.windows_of(stage).cloned(),
        }
    }
}

/// When a moment is over on the last clock of the world.
fn latest(moment: Moment) -> Timestamp {
    match moment {
        Moment::Exact(at) => at,
        // UTC-12 is the last zone that a day ends in.
        Moment::Local(at) => Offset::constant(-12).to_timestamp(at).unwrap_or(Timestamp::MAX),
    }
}

/// A freeze for people.
pub(crate) fn freeze_text(freeze: &Freeze) -> String {
    let moment = |moment: Moment| match moment {
        Moment::Exact(at) => at.strftime("%F %H:%M UTC").to_string(),
        Moment::Local(at) => at.strftime("%F %H:%M").to_string(),
    };
    format!("{} to {}: {}", moment(freeze.from), moment(freeze.until), freeze.reason)
}

/// The newest commit of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tip {
    /// Its id.
    pub(crate) commit: CommitId,
    /// Its files, as one id.
    pub(crate) tree: ObjectId,
    /// The first line of its message.
    pub(crate) subject: String,
    /// When it was made, by the committer's clock.
    pub(crate) committed_at: Timestamp,
    /// The gates that were overridden for it: gate and reason.
    pub(crate) overrides: Vec<String>,
}

/// All stages in the order of promotion.
#[derive(Debug, Clone, Default)]
pub(crate) struct FleetView {
    /// The stages.
    pub(crate) stages: Vec<StageView>,
    /// What is wrong with the repository itself.
    pub(crate) problems: Vec<String>,
    /// True once it was read: before that, "no stages" means nothing.
    pub(crate) read: bool,
    /// True if nothing of it could not be read. What is missing need not be read.
    pub(crate) complete: bool,
}

impl FleetView {
    /// True if the devices of each stage are to be what they are to be in the other.
    pub(crate) fn wants_as(&self, other: &Self) -> bool {
        let wanted = |view: &Self| {
            let of = |stage: &StageView| {
                let commit = stage.tip.as_ref().map(|tip| tip.commit.clone());
                (stage.name.clone(), commit, stage.suite.clone(), stage.images.clone())
            };
            view.stages.iter().map(of).collect::<Vec<_>>()
        };
        self.read == other.read && wanted(self) == wanted(other)
    }

    /// The stage with this name.
    pub(crate) fn stage(&self, name: &StageName) -> Option<&StageView> {
        self.stages.iter().find(|stage| stage.name == *name)
    }

    /// Reads the repository. What cannot be read becomes a problem, never an error, and stays as it
    /// was `before`: devices go on with the commits that they have.
    pub(crate) fn read(layout: &Layout, before: &Self) -> Self {
        let mut view = Self { read: true, complete: true, ..Self::default() };
        if let Err(problem) = view.fill(layout, before) {
            view.complete = false;
            view.problems.push(problem);
            view.stages.clone_from(&before.stages);
        }
        view
    }

    fn fill(&mut self, layout: &Layout, before: &Self) -> Result<(), String> {
        let repository = open(layout)?;
        let config = head_config(&repository)?;
        for stage in &config.stages {
            let tip = repository.branch(&stage.branch).map_err(|error| error.to_string())?;
            let mut view = StageView {
                name: stage.name.clone(),
                branch: stage.branch.clone(),
                from: stage.from.clone(),
                tip: None,
                suite: None,
                images: Images::new(),
                rhythm: Rhythm::of(&config),
                pace: Pace::of(&config, &stage.name),
                when: When::default(),
            };
            match tip {
                None => self.problems.push(format!(
                    "stage {}: the branch {} does not exist; make it with: git push origin HEAD:{1}",
                    stage.name, stage.branch
                )),
                Some(commit) => match read_tip(&repository, &commit, &stage.name, &config) {
                    Ok((tip, rules)) => {
                        view.tip = Some(tip);
                        view.suite = rules.suite;
                        view.images = rules.images;
                        view.rhythm = rules.rhythm;
                        view.pace = rules.pace;
                        view.when = rules.when;
                    }
                    Err(problem) => {
                        self.complete = false;
                        self.problems.push(format!("stage {}: {problem}", stage.name));
                        let known = before.stage(&stage.name).filter(|known| known.branch == stage.branch);
                        view = known.cloned().unwrap_or(view);
                    }
                },
            }
            self.stages.push(view);
        }
        // Branches also seem to be missing from a repository that went away meanwhile.
        open(layout).map(drop)
    }
}

/// The fleet repository of a server.
pub(crate) fn open(layout: &Layout) -> Result<GitRepository, String> {
    GitRepository::open(&layout.fleet()).map_err(|error| error.to_string())
}

/// The tip of the default branch; `None` if it has no commit yet.
pub(crate) fn head_tip(repository: &GitRepository) -> Result<Option<CommitId>, String> {
    let head = repository.head_branch().map_err(|error| error.to_string())?;
    let head = head.ok_or("the fleet repository has no default branch")?;
    repository.branch(&head).map_err(|error| error.to_string())
}

/// The configuration at the tip of the default branch, which says what stages there are.
pub(crate) fn head_config(repository: &GitRepository) -> Result<FleetConfig, String> {
    let head = repository.head_branch().map_err(|error| error.to_string())?;
    let head = head.ok_or("the fleet repository has no default branch")?;
    let tip = repository.branch(&head).map_err(|error| error.to_string())?;
    let tip = tip.ok_or_else(|| format!("the branch {head} of the fleet repository has no commit yet"))?;
    Rules::at(repository, &tip)
        .map(|rules| rules.config)
        .map_err(|error| format!("{head} at {}: {error}", tip.short()))
}

/// What holds for the devices of a stage at a commit.
#[derive(Debug)]
pub(crate) struct StageRules {
    /// The suite they take packages from.
    pub(crate) suite: Option<Suite>,
    /// The images that are pinned for them.
    pub(crate) images: Images,
    /// How they ask.
    pub(crate) rhythm: Rhythm,
    /// How they may change.
    pub(crate) pace: Pace,
    /// When they may.
    pub(crate) when: When,
}

/// What holds for a stage of this name at a commit. A device reads its own branch, so what the
/// branch itself says counts, not what the default branch says by now.
pub(crate) fn rules_at(
    objects: &dyn ObjectSource,
    commit: &CommitId,
    stage: &StageName,
    otherwise: &FleetConfig,
) -> Result<StageRules, String> {
    let at = |error: &dyn std::fmt::Display| format!("commit {}: {error}", commit.short());
    let tree = objects.commit(commit).map_err(|error| at(&error))?.tree;
    let text = |path: &str| -> Result<Option<String>, String> {
        let bytes = file_at(objects, &tree, path).map_err(|error| at(&error))?;
        bytes.map(String::from_utf8).transpose().map_err(|_| at(&format!("{path} is not text")))
    };
    let own = match text(CONFIG_FILE)? {
        Some(text) => {
            Some(FleetConfig::parse(&text).map_err(|error| at(&format!("{CONFIG_FILE}, {error}")))?)
        }
        None => None,
    };
    let config = own.as_ref().filter(|config| config.stage(stage).is_some()).unwrap_or(otherwise);
    let lock = match text(LOCK_FILE)? {
        Some(text) => FleetLock::parse(&text).map_err(|error| at(&format!("{LOCK_FILE}, {error}")))?,
        None => FleetLock::default(),
    };
    Ok(StageRules {
        suite: config.stage(stage).and_then(|stage| lock.suite_for(stage)),
        images: lock.images,
        rhythm: Rhythm::of(config),
        pace: Pace::of(config, stage),
        when: When::of(config, stage, volary_host::now()),
    })
}

/// The rules of merging `commit` into a stage: those that stand in the stage's branch before the
/// merge, so that no merge can open the gate that it goes through. None if the merge stops the
/// stage: then no device changes, and a stop must not wait.
pub(crate) fn config_into(
    repository: &GitRepository,
    to: &StageName,
    base: Option<&CommitId>,
    commit: &CommitId,
    otherwise: &FleetConfig,
) -> Option<FleetConfig> {
    let config_at = |commit| Rules::at(repository, commit).ok().map(|rules| rules.config);
    if config_at(commit).is_some_and(|config| config.stop_of(to).is_some()) {
        return None;
    }
    let own = base.and_then(config_at).filter(|config| config.stage(to).is_some());
    Some(own.unwrap_or_else(|| otherwise.clone()))
}

/// The gates of merging `commit` into a stage, by [`config_into`].
pub(crate) fn gates_into(
    repository: &GitRepository,
    to: &StageName,
    base: Option<&CommitId>,
    commit: &CommitId,
    otherwise: &FleetConfig,
) -> Gates {
    config_into(repository, to, base, commit, otherwise).map(|config| config.gates_of(to)).unwrap_or_default()
}

fn read_tip(
    repository: &GitRepository,
    commit: &CommitId,
    stage: &StageName,
    config: &FleetConfig,
) -> Result<(Tip, StageRules), String> {
    let read = repository.commit(commit).map_err(|error| error.to_string())?;
    let rules = rules_at(repository, commit, stage, config)?;
    let tip = Tip {
        commit: commit.clone(),
        tree: read.tree,
        subject: read.subject().to_owned(),
        committed_at: Timestamp::from_second(read.committer.seconds).unwrap_or(Timestamp::UNIX_EPOCH),
        overrides: crate::hook::overrides(&read.message)
            .map(|(gate, why)| format!("{gate}: {why}"))
            .collect(),
    };
    Ok((tip, rules))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = "version: 1\nstages:\n  development: { branch: master, packages: rolling }\n";

    fn git(dir: &Path, args: &[&str]) {
        let config =
            ["-c", "user.name=Dora", "-c", "user.email=dora@example.com", "-c", "commit.gpgsign=false"];
        volary_host::Cmd::new("git").cwd(dir).args(config).args(args).check().unwrap();
    }

    const SIGNERS: &str = "dora@example.com namespaces=\"git\" ssh-ed25519 \
                           AAAAC3NzaC1lZDI1NTE5AAAAIJ8z8nHjaWOZFz2xJKnWuNWPvGPGVHvSmYqWFMDFyIJA\n";

    fn commit(work: &Path, config: &str) {
        std::fs::create_dir_all(work.join(".volary")).unwrap();
        volary_host::write_atomic(&work.join(".volary/allowed_signers"), SIGNERS.as_bytes(), 0o644).unwrap();
        volary_host::write_atomic(&work.join(CONFIG_FILE), config.as_bytes(), 0o644).unwrap();
        git(work, &["add", "-A"]);
        git(work, &["commit", "-q", "-m", "Change something"]);
        git(work, &["push", "-q", "origin", "HEAD:master"]);
    }

    /// What the stages' devices would be told, and how many problems a person is shown.
    fn told(view: &FleetView) -> (Vec<Option<&CommitId>>, usize) {
        let tips = view.stages.iter().map(|stage| stage.tip.as_ref().map(|tip| &tip.commit));
        (tips.collect(), view.problems.len())
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::new(scratch.path());
        let (fleet, work) = (layout.fleet(), scratch.path().join("work"));
        std::fs::create_dir_all(fleet.parent().unwrap()).unwrap();
        std::fs::create_dir(&work).unwrap();
        git(scratch.path(), &["init", "-q", "--bare", "-b", "master", fleet.to_str().unwrap()]);
        git(&work, &["init", "-q", "-b", "master"]);
        git(&work, &["remote", "add", "origin", fleet.to_str().unwrap()]);
        commit(&work, CONFIG);
        let good = FleetView::read(&layout, &FleetView::default());
        assert!(matches!(told(&good), (tips, 0) if matches!(tips[..], [Some(_)])), "{good:?}");

        let away = scratch.path().join("away");
        std::fs::rename(&fleet, &away).unwrap();
        let gone = FleetView::read(&layout, &good);
        assert_eq!(told(&gone), (told(&good).0, 1));
        std::fs::rename(&away, &fleet).unwrap();

        // A second stage whose branch has a file that no device could read.
        commit(&work, &format!("{CONFIG}  production: {{ branch: production, from: development }}\n"));
        git(&work, &["push", "-q", fleet.to_str().unwrap(), "HEAD:production"]);
        let both = FleetView::read(&layout, &gone);
        // Devices that were judged by one of them are so by the other only if it wants the same.
        assert!(good.wants_as(&gone) && !good.wants_as(&FleetView::default()) && !good.wants_as(&both));
        assert!(matches!(told(&both), (tips, 0) if matches!(tips[..], [Some(_), Some(_)])), "{both:?}");
        git(&work, &["checkout", "-q", "-b", "broken"]);
        volary_host::write_atomic(&work.join(CONFIG_FILE), b"version: 99\n", 0o644).unwrap();
        git(&work, &["commit", "-q", "-a", "-m", "Break something"]);
        git(&work, &["push", "-q", fleet.to_str().unwrap(), "HEAD:production"]);
        let broken = FleetView::read(&layout, &both);
        assert_eq!(told(&broken), (told(&both).0, 1));
        // Whoever never knew it better knows none.
        let fresh = FleetView::read(&layout, &FleetView::default());
        assert!(matches!(told(&fresh), (tips, 1) if matches!(tips[..], [Some(_), None])), "{fresh:?}");
    }
}
