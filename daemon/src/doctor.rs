//! What this host can enforce, and whether that is enough for the policy `default`.

use crate::policies::{DEFAULT_POLICY, Policies};
use sandbox_keeper::cgroup::Kind;
use sandbox_keeper::probe::{Host, Privilege};
use sandbox_policy::Layer;
use sandbox_wire::DoctorReport;

/// Looks at the host; reads a few files, some milliseconds.
pub(crate) fn report(policies: &Policies) -> DoctorReport {
    let host = Host::probe();
    let required = policies.get(DEFAULT_POLICY).map(|named| named.policy.require().to_vec()).unwrap_or_default();
    let default_policy_enforceable = required.iter().all(|layer| has(&host, *layer)) && host.can_isolate();
    DoctorReport { lines: host.doctor(), default_policy_enforceable }
}

/// Whether projects can have host ids of their own: root over the host's user namespace, with all ids mapped.
pub(crate) fn has_own_ids() -> bool {
    let host = Host::probe();
    host.privilege == Privilege::Host && host.mapped_ids >= u64::from(u32::MAX)
}

fn has(host: &Host, layer: Layer) -> bool {
    match layer {
        Layer::User | Layer::Pid | Layer::Mnt | Layer::Net | Layer::Ipc | Layer::Uts => host.can_isolate(),
        Layer::Cgroup | Layer::Limits => host.cgroups.kind() != Kind::None,
        Layer::Landlock => host.landlock_abi.is_some(),
        Layer::Seccomp => !host.seccomp_actions.is_empty(),
        Layer::Ids => host.privilege == Privilege::Host,
    }
}
