//! Linux' own TCP between a guest's kernel and another namespace, with all offloads.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use splitd_tests::guest_kernel;
use splitd_tests::net_end::Outcome;
use splitd_tests::netfront::Options;
use splitd_tests::netns::{self, Namespace};

use super::{Bed, is_inside};

const END: &str = env!("CARGO_BIN_EXE_net_end");

/// A serving end that is killed with the test.
struct Serving(Child);

impl Serving {
    fn start(namespace: &Namespace, address: &str) -> Self {
        let mut command = namespace.command(END);
        let mut child = command.args(["serve", address]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "serving\n");
        Self(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(namespace: &Namespace, address: &str, task: &str) -> Outcome {
    let output = namespace.command(END).args(["ask", address, task]).output().unwrap();
    assert!(output.status.success(), "{task}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Tens of megabytes each way arrive byte for byte, with one queue and four, with all offloads and none, while the worker is killed.
#[test]
fn tcp_of_linux_passes_both_ways() {
    if !is_inside("tcp::tcp_of_linux_passes_both_ways") {
        return;
    }
    let mut b = Bed::new(Options { queues: 4, ..Options::default() });
    let (guest, far) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    netns::ip("link add far0 type veth peer name far1").unwrap();
    netns::ip("link set far0 master br0 up").unwrap();
    far.take("far1", "10.9.0.2/24").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (name, taps) = guest_kernel::tap(9, 4, dir.path()).unwrap();
    guest.take(&name, "10.9.0.1/24").unwrap();
    let _serving = Serving::start(&far, "10.9.0.2:5201");
    let plain = Options { queues: 1, ..Options::plain() };
    let mut taps = taps;
    for (options, kills) in [(Options { queues: 4, ..Options::default() }, 3), (plain, 0)] {
        b.front.reconnect(options).unwrap();
        let moving = guest_kernel::run(&mut b.front, taps).unwrap();
        for task in ["tcp-out =33554433 0", "tcp-in =33554433 0"] {
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| ask(&guest, "10.9.0.2:5201", task));
                for _ in 0..kills {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    b.world.kill_worker("vif/5/0").unwrap();
                }
                let outcome = asked.join().unwrap();
                assert_eq!((outcome.bytes, outcome.wrong), (33_554_433, 0), "{task}\n{}", b.world.log());
            });
        }
        let requests = ask(&guest, "10.9.0.2:5201", "requests 300 0");
        assert!(requests.packets > 10, "{requests:?}");
        (b.front.queues, taps) = moving.stop().unwrap().into_iter().unzip();
    }
    b.detach();
}
