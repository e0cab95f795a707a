# Starts the store and the console daemon of Xen, and waits until each answers. Sourced by init.
if [ "$LAB_STORE" = ocaml ]; then
  oxenstored --pid-file /run/xenstored.pid
else
  xenstored --pid-file /run/xenstored.pid
fi
for _ in $(seq 600); do xenstore-exists / 2>/dev/null && break; sleep 0.1; done
mkdir -p /var/log/xen/console
xen-init-dom0 > /dev/null
xenconsoled --pid-file=/run/xenconsoled.pid --log=guest --log-dir=/var/log/xen/console
