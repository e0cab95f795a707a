//! Who may have the same image open at the same time: decided by the identity that workers report, never by path. Knows
//! nothing of locks; the fence between a worker and its successor is the workers' own.

use std::collections::HashMap;

use crate::id::DeviceId;

/// What a device does with its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mode `r`.
    ReadOnly,
    /// Mode `w`.
    Exclusive,
    /// Mode `w!`: the guests look after each other's writes themselves.
    Shared,
}

#[derive(Clone, Debug)]
struct Claim {
    device: DeviceId,
    vm_uuid: String,
    access: Access,
}

/// All images in use.
#[derive(Debug, Default)]
pub struct Registry {
    claims: HashMap<String, Vec<Claim>>,
}

impl Registry {
    /// Enters a device, or says with whom it collides. The same virtual machine may have an image twice: a migration has
    /// its two ends on one host for a moment.
    pub fn claim(
        &mut self,
        identity: &str,
        device: DeviceId,
        vm_uuid: &str,
        access: Access,
    ) -> Result<(), String> {
        self.release(device);
        self.check(identity, device, vm_uuid, access)?;
        let claim = Claim { device, vm_uuid: vm_uuid.to_owned(), access };
        self.claims.entry(identity.to_owned()).or_default().push(claim);
        Ok(())
    }

    /// With whom a device would collide.
    pub fn check(
        &self,
        identity: &str,
        device: DeviceId,
        vm_uuid: &str,
        access: Access,
    ) -> Result<(), String> {
        let mut others =
            self.claims.get(identity).into_iter().flatten().filter(|other| other.device != device);
        let collision = others.find(|other| {
            let both_read = access == Access::ReadOnly && other.access == Access::ReadOnly;
            !both_read && access != Access::Shared && other.vm_uuid != vm_uuid
        });
        let Some(other) = collision else { return Ok(()) };
        let how = if other.access == Access::ReadOnly { "read-only" } else { "for writing" };
        Err(format!(
            "is in use {how} by {}: two guests may share an image only if both have it access=ro, or this one mode w!",
            other.device
        ))
    }

    /// Takes a device out.
    pub fn release(&mut self, device: DeviceId) {
        self.claims.retain(|_, claims| {
            claims.retain(|claim| claim.device != device);
            !claims.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Kind;
    use xenbus::DomId;

    fn device(domain: u16) -> DeviceId {
        DeviceId { backend: DomId(0), frontend: DomId(domain), devid: 51712, kind: Kind::Vbd }
    }

    /// Scenario 25, and 24 for the machine that meets itself during a migration.
    #[test]
    fn who_may_share() {
        use Access::{Exclusive, ReadOnly, Shared};
        for (first, second, same_vm, allowed) in [
            (ReadOnly, ReadOnly, false, true),
            (Exclusive, ReadOnly, false, false),
            (ReadOnly, Exclusive, false, false),
            (Exclusive, Exclusive, false, false),
            (Exclusive, Exclusive, true, true),
            (Exclusive, Shared, false, true),
            (Shared, Shared, false, true),
            (Shared, Exclusive, false, false),
        ] {
            let mut registry = Registry::default();
            registry.claim("dev:8:1", device(1), "a", first).unwrap();
            let outcome = registry.claim("dev:8:1", device(2), if same_vm { "a" } else { "b" }, second);
            assert_eq!(outcome.is_ok(), allowed, "{first:?} {second:?} {same_vm}");
            if let Err(text) = outcome {
                assert!(text.contains("vbd/1/xvda"), "{text}");
            }
        }
    }

    /// A worker that is replaced claims again; a detached disk is free.
    #[test]
    fn claims_end() {
        let mut registry = Registry::default();
        registry.claim("dev:8:1", device(1), "a", Access::Exclusive).unwrap();
        registry.claim("dev:8:1", device(1), "a", Access::Exclusive).unwrap();
        assert!(registry.claim("dev:8:1", device(2), "b", Access::Exclusive).is_err());
        registry.release(device(1));
        registry.claim("dev:8:1", device(2), "b", Access::Exclusive).unwrap();
        registry.claim("dev:8:2", device(1), "a", Access::Exclusive).unwrap();
    }
}
