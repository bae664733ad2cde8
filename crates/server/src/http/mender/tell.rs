//! Tells of a device in its name, in the words of our own agent's reports.

use volary_api::v1::device::{Convergence, Report};
use volary_store::{Deployment, DeploymentState};

use super::{MenderClient, Records, unauthorized};
use crate::app::App;
use crate::http::refusal::Refusal;
use crate::http::report::new_report;
use crate::mender::report::{self, Known};

/// Keeps that a deployment is over, and tells of it.
pub(crate) async fn finish(app: &App, client: &MenderClient, over: &Deployment) -> Result<(), Refusal> {
    app.store.set_deployment(over).await?;
    if over.state == DeploymentState::Success {
        let known = app.store.mender_device(&client.key).await?.unwrap_or_default();
        let mut provides = known.provides;
        provides.insert("artifact_name".to_owned(), over.name.to_string());
        app.store.set_mender_provides(&client.key, &provides, "").await?;
    }
    tell_event(app, client, over).await;
    tell(app, client, report::convergence(over, None)).await
}

pub(super) async fn tell_event(app: &App, client: &MenderClient, deployment: &Deployment) {
    let name = client.member.name.as_str();
    if let Some((kind, text)) = report::event(name, deployment) {
        app.event(kind, name, &text).await;
    }
}

/// Adds a report of a device in its name.
pub(crate) async fn tell(
    app: &App,
    client: &MenderClient,
    convergence: Option<Convergence>,
) -> Result<(), Refusal> {
    let now = volary_host::now();
    // It rises with the time, as those of our agents do.
    let id = format!("{:014}-{:08x}", now.as_millisecond(), rand::random::<u32>());
    let records = Records::read(app, &client.key).await?;
    let name = &client.member.name;
    let device = app.store.device(name).await?.ok_or_else(unauthorized)?;
    let view = app.view.get();
    let tip = view.stage(&client.member.stage).and_then(|stage| stage.tip.as_ref()).map(|tip| &tip.commit);
    let known = Known {
        stage: &client.member.stage,
        good_commit: device.good_commit.as_ref(),
        tip,
        client: &records.client,
        history: &records.history,
    };
    let report = report::report(&known, convergence, id, now);
    let body = serde_json::to_string(&report).map_err(Refusal::broken)?;
    let report = new_report(name, &report, Some(client.member.stage.clone()), body);
    app.store.add_report(&report, now).await?;
    app.nudges.devices.notify_one();
    Ok(())
}

/// Puts more of what is known into the report of a convergence.
pub(super) async fn amend(app: &App, client: &MenderClient, told: Convergence) -> Result<(), Refusal> {
    let name = &client.member.name;
    for stored in app.store.results(name, 5).await? {
        let Ok(mut report) = serde_json::from_str::<Report>(&stored.body) else {
            continue;
        };
        let is_it = |run: &Convergence| {
            // Times in records have milliseconds.
            run.commit == told.commit
                && run.started_at.as_millisecond() == told.started_at.as_millisecond()
                && run.outcome == told.outcome
        };
        if report.convergence.as_ref().is_some_and(is_it) {
            report.convergence = Some(told);
            let body = serde_json::to_string(&report).map_err(Refusal::broken)?;
            app.store.amend_report(&new_report(name, &report, None, body)).await?;
            app.nudges.devices.notify_one();
            break;
        }
    }
    Ok(())
}
