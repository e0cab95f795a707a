//! The client over `/dev/xen/xenbus`, whose quirks no socket has (control-plane notes §4): watches set by the kernel, errors of a write,
//! 4096 bytes with the header.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use xenbus::store::{Address, Error, Paths, Store};

const DIR: &str = "/tool/on-xen";
const LIMIT: Duration = Duration::from_secs(300);

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, work).await.expect("it hangs") });
}

async fn connect() -> Store {
    Store::connect(&Address::Device("/dev/xen/xenbus".into())).await.unwrap()
}

pub(crate) fn on_the_kernels_device() {
    run(async {
        let (store, other) = (connect().await, connect().await);
        let _ = store.remove(DIR).await;
        let path = |name: &str| format!("{DIR}/{name}");
        let bytes: Vec<u8> = (0..=255).collect();
        store.write(&path("bytes"), &bytes).await.unwrap();
        assert_eq!(other.read(&path("bytes")).await.unwrap(), bytes);
        let longest = vec![b'x'; 4080 - path("long").len() - 1];
        let written = store.write(&path("long"), &longest).await;
        assert!(matches!(written, Ok(()) | Err(Error::Quota { .. })), "oxenstored allows 2048: {written:?}");

        store.watch(DIR, "t").await.unwrap();
        let mut seen = BTreeSet::new();
        let write = tokio::spawn(async move {
            for n in 0..1000 {
                other.write(&format!("{DIR}/w/{}", n % 30), b"").await.unwrap();
            }
            other
        });
        while seen.len() < 30 {
            for changed in store.changed().await {
                let paths = match changed.paths {
                    Paths::These(paths) => paths,
                    Paths::AllBelow => {
                        let names = store.directory(&path("w")).await.unwrap();
                        names.iter().map(|name| path(&format!("w/{name}"))).collect()
                    }
                };
                seen.extend(paths.into_iter().filter(|path| path.contains("/w/")));
            }
        }
        let other = write.await.unwrap();
        store.unwatch(DIR, "t").await.unwrap();

        other.write(&path("count"), b"1").await.unwrap();
        let attempts = std::cell::Cell::new(0);
        let add = async |nodes: xenbus::store::Nodes| {
            attempts.set(attempts.get() + 1);
            let count: u32 = nodes.read_text(&path("count")).await?.parse().unwrap();
            if attempts.get() == 1 {
                other.write(&path("count"), b"10").await?;
            }
            nodes.write(&path("count"), (count + 1).to_string().as_bytes()).await
        };
        store.transaction(add).await.unwrap();
        assert_eq!((attempts.get(), &store.read_text(&path("count")).await.unwrap()[..]), (2, "11"));

        let names: BTreeSet<String> = (0..600).map(|n| format!("a-child-with-a-longer-name-{n}")).collect();
        for name in &names {
            store.write(&path(&format!("many/{name}")), b"").await.unwrap();
        }
        match store.directory(&path("many")).await {
            Ok(listed) => assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names),
            // oxenstored can send so long a list over its socket only.
            Err(error) => assert!(matches!(error, Error::Invalid { .. }), "{error}"),
        }
        assert!(store.is_introduced(xenbus::DomId(0)).await.unwrap());
        store.remove(DIR).await.unwrap();
    });
}

pub(crate) fn errors() {
    run(async {
        let store = connect().await;
        let missing = store.read("/tool/on-xen/missing").await;
        assert!(matches!(missing, Err(Error::NoEntry { .. })), "{missing:?}");
        let long = store.write("/tool/on-xen", &[b'x'; 4080]).await;
        assert!(matches!(long, Err(Error::TooBig { allowed: 4080, .. })), "{long:?}");
        store.watch("/tool", "t").await.unwrap();
        assert!(matches!(store.watch("/tool", "t").await, Err(Error::Exists { .. })));
        store.unwatch("/tool", "t").await.unwrap();
        assert!(matches!(store.unwatch("/tool", "t").await, Err(Error::NoEntry { .. })));
        // Still in step after all of these.
        assert!(!store.directory("/local/domain").await.unwrap().is_empty());
    });
}
