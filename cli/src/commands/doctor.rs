//! `sandboxctl doctor`: what this host can enforce, and how to mend what it cannot.

use crate::client::Client;
use crate::failure::Failure;
use crate::render;
use sandbox_wire::{DoctorReport, DoctorStatus};

/// Exit 1 when the policy `default` cannot be enforced.
pub(crate) async fn doctor(client: &Client, json: bool) -> Result<u8, Failure> {
    let report: DoctorReport = client.get("/doctor").await?;
    if json {
        render::json(&report);
    } else {
        show(&report);
    }
    Ok(u8::from(!report.default_policy_enforceable))
}

fn show(report: &DoctorReport) {
    let rows = report.lines.iter().map(|line| {
        let status = match line.status {
            DoctorStatus::Ok => "ok",
            DoctorStatus::Degraded => "degraded",
            DoctorStatus::Missing => "missing",
        };
        [line.check.clone(), status.to_owned(), line.found.clone()]
    });
    render::table(["CHECK", "STATUS", "FOUND"], rows);
    let mut text = String::new();
    for line in report.lines.iter().filter(|line| line.status != DoctorStatus::Ok) {
        text.push_str(&format!("\n{}\n", line.check));
        for (name, value) in [("meanwhile", &line.meanwhile), ("to mend it", &line.mend)] {
            if !value.is_empty() {
                text.push_str(&format!("  {name}: {value}\n"));
            }
        }
    }
    text.push_str(match report.default_policy_enforceable {
        true => "\nThe policy 'default' can be enforced on this host.\n",
        false => "\nThe policy 'default' can NOT be enforced on this host.\n",
    });
    render::text(&render::plain(&text));
}
