//! Builds a commit once more under other circumstances, and says what came out differently.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use volary_api::v1::build::{ComparedPackage, Difference};
use volary_build::Builder;
use volary_debian::deb;
use volary_store::{Build, Reproduction, ReproductionState, Source};

use super::builds::{Unbuilt, builder_config, remove_output, request};
use crate::app::App;

/// Differences of one package that are kept; whoever has more has one cause.
const MOST: usize = 100;

/// Carries one comparison out. Returns the trouble of the machine, if that was at fault.
pub(super) async fn one(app: Arc<App>, mut reproduction: Reproduction) -> Option<String> {
    let build = match app.store.build(reproduction.build).await {
        Ok(Some(build)) => build,
        Ok(None) => return None,
        Err(error) => return Some(error.to_string()),
    };
    tracing::info!(build = build.id, source = %build.source, "building once more, to compare");
    let (worker, record) = (app.clone(), build.clone());
    let sources = match app.store.sources().await {
        Ok(sources) => sources,
        Err(error) => return Some(error.to_string()),
    };
    let ended = tokio::task::spawn_blocking(move || compare(&worker, &record, sources)).await;
    let mut trouble = None;
    match ended {
        Ok(Ok((varied, packages))) => {
            let same = packages.iter().all(|package| package.same);
            reproduction.state = if same { ReproductionState::Same } else { ReproductionState::Different };
            reproduction.varied = varied;
            reproduction.packages = serde_json::to_string(&packages).expect("a comparison is plain data");
        }
        Ok(Err(Unbuilt::Commit(reason))) => {
            reproduction.state = ReproductionState::Failed;
            reproduction.reason = Some(reason);
        }
        Ok(Err(Unbuilt::Machine(problem))) => {
            reproduction.state = ReproductionState::Failed;
            reproduction.reason = Some(problem.clone());
            trouble = Some(problem);
        }
        Err(error) => {
            reproduction.state = ReproductionState::Failed;
            reproduction.reason = Some(format!("the server has a bug: {error}"));
        }
    }
    if let Err(error) = app.store.reproduced(&reproduction, volary_host::now()).await {
        return Some(error.to_string());
    }
    let text = match reproduction.state {
        ReproductionState::Same => "comes out the same".to_owned(),
        ReproductionState::Different => "comes out differently".to_owned(),
        _ => format!("could not be compared: {}", reproduction.reason.as_deref().unwrap_or_default()),
    };
    let version = build.version.as_deref().unwrap_or_default();
    app.event("build-reproduced", &build.id.to_string(), &format!("{} {version} {text}", build.source)).await;
    trouble
}

fn compare(
    app: &App,
    build: &Build,
    sources: Vec<Source>,
) -> Result<(Vec<String>, Vec<ComparedPackage>), Unbuilt> {
    let first = app.archive.files_of(build.id, &build.packages).map_err(Unbuilt::machine)?;
    if first.is_empty() {
        let text = format!("the packages of build {} are not in the archive any more", build.id);
        return Err(Unbuilt::Commit(text));
    }
    let output = app.layout.build(build.id).join("again");
    let log = app.layout.build(build.id).join("again.log");
    remove_output(&output)?;
    let stop = volary_host::Stop::default();
    let mut request = request(app, build, (stop, sources), output.clone(), log)?;
    request.again = true;
    request.source_package = false;
    request.lintian = volary_build::LintianPolicy::default();
    let builder = Builder::open(builder_config(app)).map_err(Unbuilt::machine)?;
    let again = builder.build(&request, &mut |_| {}).map_err(Unbuilt::of)?;
    let mut varied = again.varied.clone();
    varied.extend(other_dependencies(&app.layout.buildinfo(build.id), &again.files));
    let packages = first.iter().map(|(name, path)| package(name, path, &output)).collect::<Result<_, _>>()?;
    remove_output(&output)?;
    Ok((varied, packages))
}

fn package(name: &str, first: &Path, output: &Path) -> Result<ComparedPackage, Unbuilt> {
    let second = output.join(name);
    let compared = |same, differences| ComparedPackage { file: name.to_owned(), same, differences };
    let one = |what: String| Difference { member: String::new(), path: String::new(), what };
    if !second.is_file() {
        return Ok(compared(false, vec![one("the second build does not make it".to_owned())]));
    }
    let open = |path: PathBuf| move || Ok(Box::new(std::fs::File::open(&path)?) as Box<dyn Read>);
    let found = deb::compare(&open(first.to_owned()), &open(second), name).map_err(Unbuilt::machine)?;
    let same = found.is_empty();
    let more = found.len().saturating_sub(MOST);
    let mut differences: Vec<Difference> = found
        .into_iter()
        .take(MOST)
        .map(|item| Difference { member: item.member, path: item.path, what: item.what })
        .collect();
    if more > 0 {
        differences.push(one(format!("{more} more differences")));
    }
    Ok(compared(same, differences))
}

/// What the second build was built with that the first was not, by the two `.buildinfo` files.
fn other_dependencies(first: &Path, again: &[PathBuf]) -> Vec<String> {
    let second = again.iter().find(|path| path.extension().is_some_and(|end| end == "buildinfo"));
    let installed = |path: &Path| -> BTreeSet<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().skip_while(|line| !line.starts_with("Installed-Build-Depends:")).skip(1);
        lines
            .take_while(|line| line.starts_with(' '))
            .map(|line| line.trim().trim_end_matches(',').to_owned())
            .collect()
    };
    let (before, after) = (installed(first), second.map(|path| installed(path)).unwrap_or_default());
    if before.is_empty() {
        return Vec::new();
    }
    after.difference(&before).map(|package| format!("built with {package}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_build_dependencies_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, list: &str| {
            let text = format!("Format: 1.0\nInstalled-Build-Depends:\n{list}Environment:\n X=\"y\"\n");
            let path = dir.path().join(name);
            volary_host::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
            path
        };
        let first = put("buildinfo", " a (= 1),\n b (= 1)\n");
        let again = [dir.path().join("x.deb"), put("x.buildinfo", " a (= 2),\n b (= 1)\n")];
        assert_eq!(other_dependencies(&first, &again), ["built with a (= 2)"]);
        assert!(other_dependencies(&dir.path().join("none"), &again).is_empty());
    }
}
