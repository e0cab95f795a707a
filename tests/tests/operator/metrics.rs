//! Metrics as Prometheus reads them, and the status page as a browser shows it.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use splitd::id::Kind;
use splitd::series;
use splitd_tests::packages;

use crate::{Bed, REQUESTS};

/// Prometheus of Debian's release, unpacked; `None`, said loudly, where it cannot be had, unless CI runs this.
fn prometheus() -> Option<PathBuf> {
    match packages::unpacked("prometheus", &["prometheus"], "bookworm") {
        Ok(root) => Some(root.join("usr/bin")),
        Err(trouble) => {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: tests with the real Prometheus: {trouble}");
            assert!(env::var_os("CI").is_none(), "CI runs these tests or fails: {trouble}");
            None
        }
    }
}

fn get(port: u16, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn dist(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("dist").join(path)
}

/// A counter that a worker adds and that nobody named would be missing from every dashboard.
#[test]
fn every_counter_is_a_series() {
    for (kind, names) in [(Kind::Vbd, &blkback::figures::NAMES), (Kind::Vif, &netback::figures::NAMES)] {
        let known: Vec<_> = series::counters(kind).collect();
        for name in names.counters {
            assert!(known.contains(name), "{kind:?}: {name} has no name in splitd/src/series.rs");
        }
    }
}

/// Bounded: each device has its series, they go with it, and promtool has nothing to say about their names and units.
#[test]
fn series_come_and_go_with_a_device() {
    let (mut bed, port) = Bed::with_metrics();
    let (head, page) = get(port, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let value = |page: &str, series: &str| -> Option<f64> {
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    };
    let of = |op: &str| {
        value(&page, &format!("xen_blkback_requests_total{{domid=\"5\",device=\"xvda\",op=\"{op}\"}}"))
    };
    let done = of("read").unwrap() + of("write").unwrap() + of("flush").unwrap();
    assert!(done >= REQUESTS as f64, "{page}");
    let count = "xen_blkback_request_duration_seconds_count{domid=\"5\",device=\"xvda\",op=\"read\"}";
    assert_eq!(value(&page, count), of("read"));
    assert_eq!(value(&page, "xen_backend_serving{domid=\"5\",device=\"vif5.0\",kind=\"vif\"}"), Some(1.0));
    assert!(page.lines().filter(|line| !line.starts_with('#')).count() < 250, "{page}");
    if let Some(programs) = prometheus() {
        check_with_promtool(&programs, &page);
    }
    let paths = splitd_tests::toolstack::Paths::vif(xenbus::DomId(5), 0);
    bed.world.tools.store().remove(&paths.backend).unwrap();
    bed.world.until("the interface is forgotten", |w| w.show("vif/5/0").is_err()).unwrap();
    let (_, page) = get(port, "/metrics");
    assert!(!page.contains("vif5.0") && page.contains("xvda"), "{page}");
}

fn check_with_promtool(programs: &Path, page: &str) {
    let mut check = Command::new(programs.join("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{page}");
    let rules = Command::new(programs.join("promtool"))
        .args(["check", "rules"])
        .arg(dist("prometheus/splitd.rules.yml"))
        .output()
        .unwrap();
    assert!(rules.status.success(), "{rules:?}");
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The real Prometheus scrapes, loads the shipped rules, and answers a question about our disk.
#[test]
fn prometheus_scrapes_and_loads_the_rules() {
    let Some(programs) = prometheus() else { return };
    let (mut bed, port) = Bed::with_metrics();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("prometheus.yml");
    let rules = dist("prometheus/splitd.rules.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n  - job_name: splitd\n    static_configs: [{{targets: [\"127.0.0.1:{port}\"]}}]\n",
        rules.display()
    );
    fs::write(&config, text).unwrap();
    let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let child = Command::new(programs.join("prometheus"))
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{own}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _ended = Ended(child);
    let ask = |path: &str| -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", own)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    };
    bed.world
        .until("Prometheus has our disk", |_| {
            let answer = ask("/api/v1/query?query=xen_backend_serving%7Bdevice%3D%22xvda%22%7D");
            answer.is_some_and(|a| a.pointer("/data/result/0/value/1") == Some(&Value::from("1")))
        })
        .unwrap();
    bed.world
        .until("every rule has been evaluated and is healthy", |_| {
            let Some(answer) = ask("/api/v1/rules") else { return false };
            let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
            let rules: Vec<_> =
                groups.iter().flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default()).collect();
            rules.len() == 10 && rules.iter().all(|rule| rule["health"] == "ok")
        })
        .unwrap();
    // Nothing is wrong here, so nobody is called.
    let alerts = ask("/api/v1/alerts").unwrap();
    assert_eq!(alerts["data"]["alerts"].as_array().map(Vec::len), Some(0), "{alerts}");
}

/// The dashboard asks for series that there are, and for nothing else.
#[test]
fn the_dashboard_knows_our_series() {
    let (_bed, port) = Bed::with_metrics();
    let (_, page) = get(port, "/metrics");
    let board: Value =
        serde_json::from_str(&fs::read_to_string(dist("grafana/splitd.json")).unwrap()).unwrap();
    let rules = fs::read_to_string(dist("prometheus/splitd.rules.yml")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let asked =
        panels.iter().flat_map(|p| p["targets"].as_array().unwrap()).map(|t| t["expr"].as_str().unwrap());
    let text = asked.chain([rules.as_str()]).collect::<Vec<_>>().join("\n");
    let names =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|n| n.starts_with("xen_"));
    // A recording rule's name has the words of its own between colons.
    let names: Vec<_> = names
        .filter(|name| *name != "xen_blkback_requests" && *name != "xen_blkback_request_duration_seconds")
        .collect();
    assert!(names.len() > 20);
    for name in names {
        let family = name.trim_end_matches("_bucket");
        assert!(page.contains(&format!("\n# TYPE {family} ")), "{name} is no series of ours");
    }
}

/// A browser shows both devices with plots, of figures that it fetched itself.
#[test]
fn the_status_page_in_a_browser() {
    let Some(chromium) =
        ["/usr/bin/chromium", "/usr/bin/chromium-browser"].into_iter().find(|p| Path::new(p).exists())
    else {
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED: the status page in a browser: no chromium (apt install chromium)"
        );
        assert!(env::var_os("CI").is_none(), "CI runs this test or fails");
        return;
    };
    let (_bed, port) = Bed::with_metrics();
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .args(["--virtual-time-budget=6000", "--timeout=60000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://127.0.0.1:{port}/"))
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    // What is shown, without the script that shows it.
    let dom = dom.split("<script>").next().unwrap();
    for part in
        ["vbd/5/xvda", "vif/5/0", "guest-5", "4 serving", "2 devices, 0 alarms", "<path class=\"read\" d=\"M"]
    {
        assert!(dom.contains(part), "{part} is not on the page:\n{dom}");
    }
    assert!(!dom.contains("does not answer"), "{dom}");
}

/// A client that says nothing, too much or rubbish costs a connection, not the daemon.
#[test]
fn rude_clients() {
    let (mut bed, port) = Bed::with_metrics();
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let mut loud = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _ = loud.write_all(&[b'x'; 20_000]);
    assert!(get(port, "/metrics").0.starts_with("HTTP/1.1 200"));
    assert!(get(port, "/../etc/passwd").0.starts_with("HTTP/1.1 404"));
    drop(silent);
    bed.world.until("splitd answers", |w| w.show("vbd/5/xvda").is_ok()).unwrap();
}
