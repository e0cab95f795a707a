//! Network namespaces of a test's or a benchmark's own, made with unshare, ip and nsenter: what happens in them touches nothing of the
//! machine's. Knows nothing of what they are for.

use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

/// Set where everything happens in a namespace already.
const INSIDE: &str = "SPLITD_IN_NAMESPACE";

/// `unshare` with a network namespace, in which whoever runs this is root.
fn unshare() -> io::Result<Command> {
    let mut command = Command::new("unshare");
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net");
    Ok(command)
}

/// What this machine lacks for taps in a namespace, if anything.
#[must_use]
pub fn missing() -> Option<String> {
    if let Err(e) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        return Some(format!("/dev/net/tun: {e}"));
    }
    let mut command = unshare().ok()?;
    let output = command.args(["sh", "-c", "ip link add br0 type bridge && nsenter --version"]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "a bridge in a network namespace: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(e) => Some(format!("unshare: {e}")),
    }
}

/// Whether this is such a namespace.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs a program again in a namespace of its own, if it is not yet in one: `None` if it is, else how the other one ended.
pub fn rerun(arguments: &[&str]) -> io::Result<Option<std::process::ExitStatus>> {
    if is_inside() {
        return Ok(None);
    }
    let mut command = unshare()?;
    command.arg(std::env::current_exe()?).args(arguments).env(INSIDE, "1");
    command.status().map(Some)
}

/// `ip`, in our namespace. Words are separated by spaces.
pub fn ip(words: &str) -> io::Result<()> {
    done(Command::new("ip").args(words.split(' ')), words)
}

fn done(command: &mut Command, what: &str) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// A namespace beside ours, for as long as this lives.
#[derive(Debug)]
pub struct Namespace {
    keeper: Child,
}

impl Namespace {
    /// A new one, with nothing but its own loopback.
    pub fn new() -> io::Result<Self> {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo && exec sleep 86400"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = keeper.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let namespace = Self { keeper };
        if BufReader::new(out).read_line(&mut line)? == 0 {
            return Err(io::Error::other("unshare --net failed"));
        }
        Ok(namespace)
    }

    /// Takes an interface of ours, up and with an address.
    pub fn take(&self, interface: &str, address: &str) -> io::Result<()> {
        ip(&format!("link set {interface} netns {}", self.keeper.id()))?;
        for words in [format!("addr add {address} dev {interface}"), format!("link set {interface} up")] {
            done(self.command("ip").args(words.split(' ')), &words)?;
        }
        Ok(())
    }

    /// A program that will run in it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.id().to_string(), "--net", program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
