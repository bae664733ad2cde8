//! All routes of the server by what they are about.

use axum::routing::{any, get, post, put};
use volary_api::v1::device::{Desired, Report};
use volary_api::v1::metrics::Samples;
use volary_api::v1::upkeep::CheckLine;

use super::openapi::Api;
use super::{
    alert, archive, build, cve, device, export, files, fleet, gate, git, image, keys, lifecycle, mender,
    mender_fleet, metrics, mirror, page, prometheus, quality, report, rollout, specification, status, turn,
    upkeep, users,
};

const BYTES: &str = "application/octet-stream";
const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// All routes.
pub(super) fn all() -> Api {
    let mut api = Api::new();
    whole(&mut api);
    promotions(&mut api);
    devices(&mut api);
    measurements(&mut api);
    alerts(&mut api);
    packages(&mut api);
    releases(&mut api);
    upkeep_of_archive(&mut api);
    upstream(&mut api);
    images(&mut api);
    builds(&mut api);
    people(&mut api);
    of_devices(&mut api);
    monitoring(&mut api);
    others(&mut api);
    api
}

fn whole(api: &mut Api) {
    api.group("Overview", "The whole chain, and what happened in it.");
    api.get("/api/v1/status", "getStatus", "The chain from left to right.", status::status);
    api.get(
        "/api/v1/trace",
        "tracePackage",
        "The way of a package from its commit to the devices.",
        status::trace,
    );
    api.get("/api/v1/events", "listEvents", "What happened, the newest first.", status::events);
    api.get("/api/v1/openapi.json", "getOpenapi", "This document.", specification::show)
        .gives(JSON, "An OpenAPI 3.1 document.");
}

fn promotions(api: &mut Api) {
    api.group("Promotions", "Merges of one stage into the next, their gates, and the rollouts that follow.");
    api.get(
        "/api/v1/promotion",
        "previewPromotion",
        "What merging one stage into another would do.",
        fleet::promotion,
    );
    api.post("/api/v1/promotion", "promote", "Lets the server merge one stage into another.", fleet::promote).note(
        "Only where `promote` in `volary.yml` lets it, and if every gate says go. All other merges are signed by \
         people and pushed to the fleet repository.",
    );
    api.get("/api/v1/gates", "listGates", "What the gates of a merge say.", fleet::gates);
    api.get(
        "/api/v1/gate-statuses",
        "listGateStatuses",
        "What was said of commits under the name of a gate, the newest first.",
        gate::statuses,
    );
    api.post(
        "/api/v1/gate-statuses",
        "sayOfCommit",
        "Says what an external gate says of a commit.",
        gate::say,
    )
    .note("A token with the role `gate` speaks only for the gates of its limits.");
    api.get(
        "/api/v1/server-keys",
        "getServerKeys",
        "The server's own keys, as lines for `.volary/allowed_signers`.",
        fleet::server_keys,
    );
    api.get(
        "/api/v1/cves",
        "getCves",
        "Which data of Debian's security tracker the server has; null if none.",
        cve::show,
    );
    api.put("/api/v1/cves", "putCves", "Gives the data of Debian's security tracker.", cve::import)
        .takes(JSON, "The tracker's JSON, as it is.");
    api.get("/api/v1/rollouts", "listRollouts", "The rollouts, the newest first.", rollout::rollouts);
    api.post(
        "/api/v1/rollouts/{stage}/stop",
        "stopRollout",
        "Stops a rollout: no further device begins.",
        rollout::stop,
    );
    api.post(
        "/api/v1/rollouts/{stage}/resume",
        "resumeRollout",
        "Lets a stopped rollout go on.",
        rollout::resume,
    )
    .note("What failed until now does not count any more.");
    api.post(
        "/api/v1/rollouts/{stage}/next",
        "openNextWave",
        "Opens the next wave of a rollout now.",
        rollout::next,
    );
}

fn devices(api: &mut Api) {
    api.group("Devices", "The devices of the fleet, for people.");
    api.get("/api/v1/devices", "listDevices", "The devices by name.", fleet::devices);
    api.get("/api/v1/devices/{name}", "getDevice", "A device.", fleet::device);
    api.delete("/api/v1/devices/{name}", "removeDevice", "Forgets a device.", fleet::remove);
    api.get(
        "/api/v1/devices/{name}/reports",
        "listReports",
        "A device's reports, the newest first.",
        fleet::reports,
    );
    api.post("/api/v1/devices/{name}/accept", "acceptDevice", "Accepts a device that waits.", fleet::accept);
    api.post(
        "/api/v1/devices/{name}/reject",
        "rejectDevice",
        "Rejects a device: its certificate counts no more.",
        fleet::reject,
    );
    api.post(
        "/api/v1/device-tokens",
        "makeDeviceToken",
        "Makes a token that lets devices join a stage.",
        fleet::device_token,
    );
    api.get(
        "/api/v1/devices/{name}/deployments",
        "listDeployments",
        "The deployments of a device with Mender's client, the newest first.",
        mender_fleet::deployments,
    );
    api.post(
        "/api/v1/devices/{name}/retry",
        "retryImage",
        "Lets a device with Mender's client try its image again.",
        mender_fleet::retry,
    );
    api.post(
        "/api/v1/devices/{name}/abort",
        "abortImage",
        "Calls the update of a device with Mender's client back.",
        mender_fleet::abort,
    );
}

fn measurements(api: &mut Api) {
    api.group("Measurements", "What devices measure.");
    api.get("/api/v1/devices/{name}/metrics", "listMetrics", "What a device measured last.", metrics::latest);
    api.get(
        "/api/v1/devices/{name}/metrics/{series}",
        "getSeries",
        "Series of a device over time.",
        metrics::points,
    );
    api.get(
        "/api/v1/devices/{name}/errors",
        "listJournalErrors",
        "Errors in the journal of a device, the newest first.",
        metrics::errors,
    );
}

fn alerts(api: &mut Api) {
    api.group("Alerts", "What is wrong, who is not to be told of it, and the feeds that tell others.");
    api.get(
        "/api/v1/alerts",
        "listAlerts",
        "The open alerts, the oldest first, then some that are over.",
        alert::alerts,
    );
    api.get("/api/v1/alerts/{id}", "getAlert", "An alert with its devices and history.", alert::alert);
    api.get(
        "/api/v1/alert-changes",
        "listAlertChanges",
        "What became of alerts, the newest first.",
        alert::changes,
    );
    api.get("/api/v1/silences", "listSilences", "The silences that have not ended, or all.", alert::silences);
    api.post("/api/v1/silences", "silence", "Silences alerts for a while.", alert::silence);
    api.delete("/api/v1/silences/{id}", "endSilence", "Ends a silence.", alert::unsilence);
    api.get("/api/v1/feeds", "listFeeds", "How the feeds are.", alert::feeds);
}

fn packages(api: &mut Api) {
    api.group("Packages", "What is in the archive, and how it comes in.");
    api.get("/api/v1/packages", "listPackages", "The packages of a suite.", archive::packages);
    api.get("/api/v1/diff", "diffSuites", "What differs between two suites.", archive::diff);
    api.put("/api/v1/upload/{file}", "upload", "Uploads and includes in one request.", archive::upload_one)
        .note("The file is a `.deb`, or a `.tar` of a `.changes` with the files that it names.")
        .takes(BYTES, "The file.");
    api.post(
        "/api/v1/upload/{file}",
        "uploadByPost",
        "The same as with PUT, for programs that only post.",
        archive::upload_one,
    )
    .takes(BYTES, "The file.");
    api.put("/api/v1/uploads/{id}/{file}", "uploadFile", "Sends a file of an upload.", archive::upload)
        .takes(BYTES, "The file.");
    api.put(
        "/api/v1/uploads/{id}",
        "uploadFiles",
        "Sends several files of an upload.",
        archive::upload_batch,
    )
    .takes("application/x-tar", "The files.");
    api.post(
        "/api/v1/uploads/{id}/include",
        "includeUpload",
        "Takes the files of an upload into the archive and rolling.",
        archive::include,
    )
    .note("The upload ends with it. Only an administrator may ask for `allow_unsigned`.");
}

fn releases(api: &mut Api) {
    api.group("Releases", "Releases and their revisions.");
    api.get("/api/v1/releases", "listReleases", "All releases with their revisions.", archive::releases);
    api.post("/api/v1/releases", "cutRelease", "Cuts a release from rolling.", archive::cut);
    api.get("/api/v1/releases/{name}", "getRelease", "A release with its revisions.", archive::release);
    api.delete(
        "/api/v1/releases/{name}",
        "dropRelease",
        "Drops a release that nothing uses.",
        lifecycle::drop_release,
    );
    api.post(
        "/api/v1/releases/{name}/protect",
        "protectRelease",
        "Protects a release from being dropped.",
        lifecycle::protect,
    );
    api.post(
        "/api/v1/releases/{name}/unprotect",
        "unprotectRelease",
        "Ends a release's protection.",
        lifecycle::unprotect,
    );
    api.post(
        "/api/v1/releases/{name}/picks",
        "pick",
        "Picks packages from rolling into an open release.",
        archive::pick,
    );
    api.post(
        "/api/v1/releases/{name}/freeze",
        "freezeRelease",
        "Freezes a release: it takes no picks any more.",
        archive::freeze,
    );
    api.get(
        "/api/v1/releases/{name}/pin",
        "getPin",
        "What `volary.lock` says of a revision of a release.",
        archive::pin,
    );
    api.get("/api/v1/exports", "listExports", "The exports that the server keeps up.", export::exports);
    api.post("/api/v1/exports/{name}/run", "runExport", "Runs an export now.", export::run);
}

fn upkeep_of_archive(api: &mut Api) {
    api.group("Archive", "The upkeep of the archive, and the keys that sign it.");
    api.post("/api/v1/archive/check", "checkArchive", "Checks that every suite is whole.", upkeep::check)
        .gives_json::<CheckLine>(LINES, "Lines of progress, each a JSON text of its own; the last line is none.");
    api.post("/api/v1/archive/gc", "collectGarbage", "Removes what nothing names.", upkeep::collect);
    api.get("/api/v1/archive/why", "whyPackageStays", "Why a package stays in the archive.", upkeep::why);
    api.get("/api/v1/archive/keys", "listKeys", "The keys that sign the archive.", keys::keys);
    api.post("/api/v1/archive/keys", "addKey", "Adds a key, or begins a rotation.", keys::add);
    api.post("/api/v1/archive/keys/retire", "retireKeys", "Ends keys that leave.", keys::retire);
}

fn upstream(api: &mut Api) {
    api.group("Mirrors", "Packages from other archives.");
    api.get("/api/v1/mirrors", "listMirrors", "The mirrors.", mirror::mirrors);
    api.post("/api/v1/mirrors", "addMirror", "Defines a mirror.", mirror::add);
    api.get("/api/v1/mirrors/{name}", "getMirror", "A mirror.", mirror::mirror);
    api.delete("/api/v1/mirrors/{name}", "removeMirror", "Removes a mirror.", mirror::remove);
    api.get(
        "/api/v1/mirrors/{name}/packages",
        "listMirroredPackages",
        "What came from a mirror, and why.",
        mirror::packages,
    );
    api.post("/api/v1/mirrors/{name}/sync", "syncMirror", "Asks for a sync of a mirror now.", mirror::sync);
    api.post(
        "/api/v1/imports",
        "import",
        "Begins to import the packages of another archive once.",
        mirror::import,
    );
    api.get("/api/v1/imports/{id}", "getImport", "How an import is.", mirror::import_status);
}

fn images(api: &mut Api) {
    api.group("Images", "Images of whole systems.");
    api.get("/api/v1/images", "listImages", "The images.", image::images);
    api.put("/api/v1/images", "publishImage", "Publishes an image.", image::publish)
        .takes(BYTES, "A Mender artifact.");
    api.post(
        "/api/v1/images",
        "publishImageByPost",
        "The same as with PUT, for programs that only post.",
        image::publish,
    )
    .takes(BYTES, "A Mender artifact.");
    api.get("/api/v1/images/{artifact}", "getImage", "An image.", image::image);
    api.delete(
        "/api/v1/images/{artifact}",
        "removeImage",
        "Removes an image that no stage pins.",
        image::remove,
    );
    api.get(
        "/images/{name}",
        "downloadImage",
        "The artifact of an image; single ranges are answered.",
        files::image,
    )
    .header("Range", "A single range of bytes.")
    .header("If-None-Match", "The `ETag` of the answer before.")
    .gives(BYTES, "The file.")
    .gives_also(206, BYTES, "A part of the file.")
    .gives_nothing(304, "It is the same.");
}

fn builds(api: &mut Api) {
    api.group("Builds", "Source repositories, and what is built of them.");
    api.get("/api/v1/sources", "listSources", "The registered source repositories.", build::sources);
    api.post("/api/v1/sources", "addSource", "Registers a source repository.", build::add_source);
    api.delete(
        "/api/v1/sources/{name}",
        "removeSource",
        "Forgets a source repository; builds and packages stay.",
        build::remove_source,
    );
    api.post("/api/v1/sources/{name}/poll", "pollSource", "Looks for commits now.", build::poll_source);
    api.get("/api/v1/builds", "listBuilds", "The builds, the newest first.", build::builds);
    api.get("/api/v1/builds/{id}", "getBuild", "A build.", build::build);
    api.get("/api/v1/builds/{id}/log", "getBuildLog", "A build's log, at most 1 MiB at once.", build::log)
        .gives(TEXT, "A part of the log. With the header `x-volary-ended: true` it reaches to the end of a build that is over.");
    api.post("/api/v1/builds/{id}/retry", "retryBuild", "Queues a build that failed again.", build::retry);
    api.post("/api/v1/builds/{id}/cancel", "cancelBuild", "Ends a build that waits or runs.", build::cancel);
    api.get("/api/v1/builds/{id}/buildinfo", "getBuildinfo", "A build's `.buildinfo`.", quality::buildinfo)
        .gives(TEXT, "The file.");
    api.get(
        "/api/v1/builds/{id}/statuses",
        "listBuildStatuses",
        "What forges were told of a build.",
        quality::statuses,
    );
    api.get(
        "/api/v1/builds/{id}/reproduction",
        "getReproduction",
        "How the newest comparison of a build went; null if there is none.",
        quality::reproduction,
    );
    api.post("/api/v1/reproductions", "reproduce", "Builds once more and compares.", quality::reproduce);
}

fn people(api: &mut Api) {
    api.group("People", "Accounts, sessions and tokens.");
    api.post("/api/v1/login", "login", "Signs in with a password.", users::login);
    api.post("/api/v1/logout", "logout", "Ends the session that asks.", users::logout);
    api.get("/api/v1/me", "getMe", "Who asks.", users::me);
    api.get("/api/v1/users", "listUsers", "The accounts.", users::users);
    api.post("/api/v1/users", "addUser", "Makes an account.", users::add);
    api.delete("/api/v1/users/{name}", "removeUser", "Removes an account.", users::remove);
    api.post("/api/v1/users/{name}/role", "setRole", "Gives an account another role.", users::set_role);
    api.post(
        "/api/v1/users/{name}/password",
        "setPassword",
        "Sets the password of an account.",
        users::set_password,
    )
    .note("People set their own, administrators that of everybody. All other sessions of the account end.");
    api.get(
        "/api/v1/sessions",
        "listSessions",
        "Who is signed in: an administrator sees all, others themselves.",
        users::sessions,
    );
    api.delete("/api/v1/sessions/{id}", "endSession", "Ends a session.", users::end);
    api.get("/api/v1/tokens", "listTokens", "The tokens, without their secrets.", fleet::tokens);
    api.post("/api/v1/tokens", "addToken", "Makes a token; its secret is shown this once.", fleet::add_token);
    api.delete("/api/v1/tokens/{name}", "removeToken", "Takes a token back.", fleet::remove_token);
}

fn of_devices(api: &mut Api) {
    api.group("Agents", "What the agents on devices ask and tell.");
    api.post("/device/v1/enroll", "enroll", "Asks for an identity.", device::enroll)
        .note("Sent again and again until somebody accepts the device, or at once with a join token.");
    api.get(
        "/device/v1/desired",
        "getDesired",
        "What the server thinks the device should be at.",
        device::desired,
    )
    .header("If-None-Match", "The `ETag` of the answer before.")
    .header("Prefer", "`wait=N`: hold the answer that nothing changed back for up to N seconds.")
    .gives_json::<Desired>(JSON, "With an `ETag`.")
    .gives_nothing(304, "Nothing changed.");
    api.post("/device/v1/objects", "getObjects", "The git objects between two commits.", device::objects)
        .gives("application/x-git-packed-objects", "A pack without deltas.");
    api.post("/device/v1/reports", "sendReport", "Tells how the device is.", report::report)
        .header("Content-Encoding", "`gzip`, if it is packed.")
        .takes_json::<Report>(JSON, "A report. The same `id` counts once.");
    api.post("/device/v1/reports/batch", "sendReports", "Several reports.", report::batch)
        .header("Content-Encoding", "`gzip`, if they are packed.")
        .takes_json::<Report>(LINES, "Reports, each a JSON text on a line of its own.");
    api.post("/device/v1/metrics", "sendMetrics", "Measurements.", metrics::receive)
        .header("Content-Encoding", "`gzip`, if they are packed.")
        .takes_json::<Samples>(LINES, "Measurements, each a JSON text on a line of its own.");
    api.post("/device/v1/turn", "askTurn", "Asks whether the device may change itself now.", turn::ask);
    api.delete("/device/v1/turn", "giveTurnBack", "Gives the turn back.", turn::give_back);
}

fn monitoring(api: &mut Api) {
    api.group("Monitoring", "For those who watch the server and the fleet.");
    api.get(
        "/metrics",
        "scrape",
        "The server's own numbers and those of devices, in Prometheus' text format.",
        prometheus::metrics,
    )
    .header("Accept-Encoding", "`gzip` for a packed answer.")
    .gives(TEXT, "Prometheus' text format 0.0.4.");
    api.get(
        "/prometheus/sd",
        "discover",
        "Where Prometheus finds them: its HTTP service discovery.",
        prometheus::discovery,
    );
    api.get("/healthz", "health", "Whether the server answers.", || async { "ok\n" }).gives(TEXT, "`ok`");
}

/// What is no part of the API.
fn others(api: &mut Api) {
    // An APT repository and git's protocol.
    api.other("/archive/{*path}", get(files::archive));
    api.other("/git/{*path}", any(git::serve));
    // Mender's device API, as its clients speak it.
    let next = get(mender::next_by_query).post(mender::next_v1);
    api.other("/api/devices/v1/authentication/auth_requests", post(mender::authenticate));
    api.other("/api/devices/v1/deployments/device/deployments/next", next);
    api.other("/api/devices/v2/deployments/device/deployments/next", post(mender::next_v2));
    api.other("/api/devices/v1/deployments/device/deployments/{id}/status", put(mender::status));
    api.other("/api/devices/v1/deployments/device/deployments/{id}/log", put(mender::log));
    api.other("/api/devices/v1/deployments/artifacts/{artifact}", get(mender::download));
    let attributes = put(mender::inventory).patch(mender::inventory);
    api.other("/api/devices/v1/inventory/device/attributes", attributes);
    // Pages for people.
    api.other("/", get(page::home));
    api.other("/devices", get(page::devices::show));
    api.other("/devices/{name}", get(page::device::show));
    api.other("/alerts", get(page::alerts::show));
    api.other("/alerts/silence", post(page::alerts::silence));
    api.other("/alerts/unsilence", post(page::alerts::unsilence));
    api.other("/events", get(page::happened::show));
    api.other("/releases/{name}", get(page::release::show));
    api.other("/rollouts/{stage}", post(page::rollout::click));
    api.other("/promotion", get(page::promotion::show).post(page::promotion::click));
    api.other("/trace", get(page::trace));
    api.other("/builds/{id}", get(page::build));
    api.other("/login", get(page::login::form).post(page::login::login));
    api.other("/login/oidc", get(page::oidc::begin));
    api.other("/login/oidc/callback", get(page::oidc::callback));
    api.other("/logout", post(page::login::logout));
    api.other("/account", get(page::login::account));
    api.other("/account/password", post(page::login::password));
    api.other("/account/end", post(page::login::end));
    api.other("/assets/{name}", get(page::asset));
}
