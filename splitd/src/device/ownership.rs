//! Whose a device is: splitd's, the kernel's driver's, or another backend's. Knows nothing of how it is served.

use tokio::time::Instant;
use xenbus::XenbusState as State;

use super::{Device, RETRY};
use crate::id::Kind;
use crate::kernel::Backend;
use crate::observe::{self, Look};
use crate::step::Worker;

impl Device {
    /// Whose device it is can only change while we have nothing to do with it.
    pub(super) async fn judge_ownership(&mut self, look: &Look) {
        let free = matches!(self.worker, Worker::Absent) && !self.connected();
        let state = look.observed.backend.map(|backend| backend.state);
        if !free || state.is_none() || (self.decided && state != Some(State::Initialising)) {
            return;
        }
        self.decided = true;
        self.not_ours = match self.host.sys.bound_driver(&self.id) {
            Some(driver) => Some(format!("the kernel's driver {driver} is bound to it")),
            None if self.kernel_takes() => Some(match self.id.kind {
                Kind::Vif => "the kernel's network backend is loaded and takes every new interface: splitctl takeover --vifs".to_owned(),
                Kind::Vbd | Kind::Vbd3 => "the kernel's disk backend is loaded and takes every new disk: splitctl takeover".to_owned(),
            }),
            None => match observe::toolstack(&self.host.store, self.id).await {
                Ok(toolstack) => {
                    let config = &self.host.config;
                    let name = toolstack.domain_name.as_deref();
                    let (key, ours) = match self.id.kind {
                        Kind::Vif => ("serve_vifs", config.serve_vifs.includes(name)),
                        kind => ("serve", config.serve.includes(kind, toolstack.script.as_deref(), name)),
                    };
                    self.toolstack = Some(toolstack);
                    (!ours).then(|| format!("it is not among those that `{key}` in splitd.toml names"))
                }
                Err(trouble) => {
                    self.decided = false;
                    self.look_at = Some(Instant::now() + RETRY);
                    Some(trouble.to_string())
                }
            },
        };
    }

    fn kernel_takes(&self) -> bool {
        Backend::of(self.id.kind).is_some_and(|backend| self.host.sys.takes_new(backend))
    }
}
