//! The worker that serves one network interface of one guest: netif's wire format, packets, offloads, the tap. Knows nothing of
//! xenstore or of the toolstack.
