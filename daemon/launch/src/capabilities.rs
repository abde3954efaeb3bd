//! Capabilities: locked away for good in the launcher, dropped by each init (capabilities(7)).

use rustix::thread::{CapabilitiesSecureBits as SecureBits, CapabilitySet, CapabilitySets};
use sandbox_launch::report::{Report, Step};

/// Empties the bounding and ambient sets, locks the securebits, sets no_new_privs. From here on no
/// execve(2) and no change of ids gives a capability back; what the launcher holds itself, it
/// keeps for making inits.
pub(crate) fn lock() -> Result<(), Report> {
    let failed = |errno, subject: &str| Report::new(Step::LockCapabilities, errno, subject);
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // EINVAL: newer than the kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(failed(errno, "bounding set")),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(|errno| failed(errno, "ambient set"))?;
    let bits = SecureBits::NO_ROOT
        | SecureBits::NO_ROOT_LOCKED
        | SecureBits::NO_SETUID_FIXUP
        | SecureBits::NO_SETUID_FIXUP_LOCKED
        | SecureBits::KEEP_CAPS_LOCKED
        | SecureBits::NO_CAP_AMBIENT_RAISE
        | SecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits).map_err(|errno| failed(errno, "securebits"))?;
    rustix::thread::set_no_new_privs(true).map_err(|errno| failed(errno, "no_new_privs"))
}

/// Drops every capability, and checks that none is left.
pub(crate) fn drop_all() -> Result<(), Report> {
    let failed = |errno| Report::new(Step::DropCapabilities, errno, "");
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed)?;
    let left = rustix::thread::capabilities(None).map_err(failed)?;
    if left.effective.is_empty() && left.permitted.is_empty() && left.inheritable.is_empty() {
        Ok(())
    } else {
        Err(Report::new(Step::DropCapabilities, libc::EPERM, "some are left"))
    }
}
