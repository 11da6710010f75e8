"""A stand-in of the IBM Quantum service on this machine, for trials and tests without an account.

The real client talks to it over HTTP on the loopback interface, unmodified: account from the
environment, backends, batches, sessions, Estimator and jobs. Jobs are executed on Aer, with noise
where the device is small enough; what a job returns depends on its content alone. Faults that a
network, a service or a device may have are scripted (`faults`), time is a clock that can be moved.

    with Standin(Rules(noisy=False)) as standin:
        backend = standin.service().backend("ibm_manila")     # or plain QiskitRuntimeService()

Inside the block the environment names the stand-in, so subprocesses find it as well. Another
process inspects and scripts it through `Remote(url)`; `python -m hardware_runs.standin` runs one.

It is no test of IBM's service: what is known of the service's behaviour was copied, the rest is
assumed. Modules: `faults` (what may go wrong), `records` (jobs, sessions, their states over time),
`store` (a SQLite file), `programs` (decode, measure, execute), `service` (what is so now), `routes`
(from a request to its answer), `account`, `jobs` and `sessions` (the answers), `tokens`, `server`
and `protocol` (HTTP), `remote`. Imports nothing else of `hardware_runs`.
"""

from qpc_qiskit.common.extras import importing

with importing("ibm", "The stand-in of IBM's service"):
    from hardware_runs.standin.faults import Fault
    from hardware_runs.standin.remote import Remote
    from hardware_runs.standin.server import Standin
    from hardware_runs.standin.service import Rules

__all__ = ["Fault", "Remote", "Rules", "Standin"]
