"""Checks built overlays: against the schemas of Kubernetes, and for what those cannot say.

Usage: check.py SETTINGS DOCKERFILE OVERLAY.yaml...

SETTINGS is what `srs-proxy --print-env` prints; an OVERLAY.yaml what `kubectl kustomize` prints.
Prints each finding on a line of its own and ends with 1 if there is any.
"""

import re
import sys
from pathlib import Path

import kubernetes_validate
import yaml

# The oldest that has all fields (preStop.sleep), and the newest whose schemas the package has.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
PROXY = "srs-proxy"
LISTENERS = {
    "rtmp": "PROXY_RTMP_SERVER",
    "system": "PROXY_SYSTEM_API",
    "metrics": "PROXY_EXPORTER_LISTEN",
    "http-api": "PROXY_HTTP_API",
    "http": "PROXY_HTTP_SERVER",
    "webrtc": "PROXY_WEBRTC_SERVER",
    "srt": "PROXY_SRT_SERVER",
    "gossip": "PROXY_MESH_GOSSIP_LISTEN",
    "grpc": "PROXY_MESH_GRPC_LISTEN",
}
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


class Overlay:
    """What an overlay's objects say, with the questions that several rules ask."""

    def __init__(self, name, docs, settings):
        self.name = name
        self.docs = docs
        self.settings = settings

    def kind(self, *kinds):
        return [doc for doc in self.docs if doc["kind"] in kinds]

    def named(self, kind, name):
        return next((doc for doc in self.kind(kind) if doc["metadata"]["name"] == name), None)

    @property
    def workloads(self):
        return self.kind("Deployment", "StatefulSet")

    @property
    def proxy(self):
        return next(doc for doc in self.workloads if doc["metadata"]["name"] == PROXY)

    def selected(self, selector):
        """The workloads whose pods have all labels of `selector`, which must not be empty."""
        return [
            doc
            for doc in self.workloads
            if selector and selector.items() <= doc["spec"]["template"]["metadata"]["labels"].items()
        ]

    def env(self, container):
        """Names and, where they are written down, values of a container's environment."""
        env = {}
        for source in container.get("envFrom", []):
            config = self.named("ConfigMap", source["configMapRef"]["name"])
            env |= config["data"] if config else {}
        return env | {entry["name"]: entry.get("value") for entry in container.get("env", [])}

    def setting(self, name):
        """What the proxy takes for a setting in this overlay."""
        return self.env(containers(self.proxy)[0]).get(name) or self.settings.get(name)


def label(doc):
    return f"{doc['kind']} {doc['metadata']['name']}"


def pod(workload):
    return workload["spec"]["template"]["spec"]


def containers(workload):
    return pod(workload)["containers"]


def ports(workload):
    """Port name and protocol -> number."""
    return {
        (port["name"], port.get("protocol", "TCP")): port["containerPort"]
        for container in containers(workload)
        for port in container.get("ports", [])
    }


def port_of(listen):
    """The port of PORT, HOST:PORT or [IPV6]:PORT."""
    return int(listen.rpartition(":")[2])


def seconds(duration):
    """A duration such as 1m30s, in seconds."""
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", duration))


def schema(overlay):
    for doc in overlay.docs:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(doc, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{label(doc)} is invalid in Kubernetes {version}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError:
                yield f"{label(doc)}: Kubernetes {version} has no such kind in {doc['apiVersion']}"


def known_settings(overlay):
    for name in overlay.env(containers(overlay.proxy)[0]):
        if name not in overlay.settings:
            yield f"{label(overlay.proxy)}: {name} is no setting of srs-proxy"
    balancer = overlay.setting("PROXY_LOAD_BALANCER_TYPE")
    if balancer != overlay.name:
        yield f"PROXY_LOAD_BALANCER_TYPE is {balancer}"


def references(overlay):
    for workload in overlay.workloads:
        volumes = [volume["configMap"]["name"] for volume in pod(workload).get("volumes", []) if "configMap" in volume]
        sources = [
            source["configMapRef"]["name"]
            for container in containers(workload)
            for source in container.get("envFrom", [])
        ]
        for name in volumes + sources:
            if not overlay.named("ConfigMap", name):
                yield f"{label(workload)}: there is no ConfigMap {name}"
    for doc in overlay.kind("Secret"):
        yield f"{label(doc)}: secrets do not belong into a repository"


def selectors(overlay):
    for workload in overlay.workloads:
        if workload not in overlay.selected(workload["spec"]["selector"]["matchLabels"]):
            yield f"{label(workload)}: its selector does not match its own pods"
        affinity = pod(workload).get("affinity", {}).get("podAntiAffinity", {})
        for term in affinity.get("preferredDuringSchedulingIgnoredDuringExecution", []):
            if workload not in overlay.selected(term["podAffinityTerm"]["labelSelector"]["matchLabels"]):
                yield f"{label(workload)}: its anti-affinity does not match its own pods"
    wanted = [(doc, doc["spec"]["selector"]) for doc in overlay.kind("Service")]
    wanted += [(doc, doc["spec"]["selector"]["matchLabels"]) for doc in overlay.kind("PodDisruptionBudget")]
    for doc in overlay.kind("NetworkPolicy"):
        peers = [peer for rule in doc["spec"]["ingress"] for peer in rule.get("from", []) if "podSelector" in peer]
        wanted += [(doc, target["podSelector"]["matchLabels"]) for target in [doc["spec"], *peers]]
    for doc, selector in wanted:
        if not overlay.selected(selector):
            yield f"{label(doc)}: no pod matches {selector}"


def target_ports(overlay):
    for doc in overlay.kind("Service"):
        for workload in overlay.selected(doc["spec"]["selector"]):
            for port in doc["spec"]["ports"]:
                if (port["targetPort"], port.get("protocol", "TCP")) not in ports(workload):
                    yield f"{label(doc)}: {label(workload)} has no port {port['targetPort']}"
    for doc in overlay.kind("NetworkPolicy"):
        for workload in overlay.selected(doc["spec"]["podSelector"]["matchLabels"]):
            for rule in doc["spec"]["ingress"]:
                for port in rule["ports"]:
                    if (port["port"], port.get("protocol", "TCP")) not in ports(workload):
                        yield f"{label(doc)}: {label(workload)} has no port {port['port']}"


def datagrams(overlay):
    """Clients of WebRTC are told the port of the listener, and one node must get all that a client sends."""
    for doc in overlay.kind("Service"):
        if overlay.proxy not in overlay.selected(doc["spec"]["selector"]):
            continue
        for port in doc["spec"]["ports"]:
            if port["targetPort"] not in ["webrtc", "srt"]:
                continue
            listens = port_of(overlay.setting(LISTENERS[port["targetPort"]]))
            if port["targetPort"] == "webrtc" and port["port"] != listens:
                yield f"{label(doc)}: answers to offers name port {listens}, not {port['port']}"
            if doc["spec"].get("sessionAffinity") != "ClientIP":
                yield f"{label(doc)}: without sessionAffinity, packets of one client reach several nodes"
            if doc["spec"].get("externalTrafficPolicy") != "Local":
                yield f"{label(doc)}: without externalTrafficPolicy Local, the addresses of clients are lost"


def listeners(overlay):
    for (name, _), number in ports(overlay.proxy).items():
        listen = overlay.setting(LISTENERS[name])
        if listen and port_of(listen) != number:
            yield f"{label(overlay.proxy)}: port {name} is {number}, but {LISTENERS[name]} is {listen}"


def probes(overlay):
    for workload in overlay.workloads:
        for container in containers(workload):
            for kind in ["readinessProbe", "livenessProbe"]:
                probe = container.get(kind)
                if not probe:
                    yield f"{label(workload)}: {container['name']} has no {kind}"
                    continue
                action = probe.get("httpGet") or probe.get("tcpSocket")
                if action and (action["port"], "TCP") not in ports(workload):
                    yield f"{label(workload)}: {kind} asks at port {action['port']}, which is none"
    container = containers(overlay.proxy)[0]
    for kind, path in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]:
        action = container.get(kind, {}).get("httpGet", {})
        if (action.get("path"), action.get("port")) != (path, "system"):
            yield f"{label(overlay.proxy)}: {kind} does not ask for {path} at port system"


def metrics(overlay):
    """Prometheus finds the metrics where they are, and reaches them from inside of the cluster only."""
    annotations = overlay.proxy["spec"]["template"]["metadata"].get("annotations", {})
    found = {key: annotations.get(f"prometheus.io/{key}") for key in ["scrape", "port", "path"]}
    port = ports(overlay.proxy).get(("metrics", "TCP"))
    if found != {"scrape": "true", "port": str(port), "path": "/metrics"}:
        yield f"{label(overlay.proxy)}: Prometheus does not find the metrics at port {port} by its annotations"
    if not overlay.setting("PROXY_EXPORTER_LISTEN"):
        yield f"{label(overlay.proxy)}: PROXY_EXPORTER_LISTEN is not set, so nothing listens at port {port}"
    policies = overlay.kind("NetworkPolicy")
    rules = [rule for doc in policies for rule in doc["spec"]["ingress"]]
    open_to = [rule.get("from") for rule in rules if "metrics" in [port["port"] for port in rule["ports"]]]
    if open_to != [[{"namespaceSelector": {}}]]:
        yield "NetworkPolicy: port metrics is to be open to the pods of the cluster and nobody else"


def drain(overlay):
    container = containers(overlay.proxy)[0]
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if pause < 1:
        yield f"{label(overlay.proxy)}: without a pause in preStop, clients are still sent to a closed listener"
    grace = pod(overlay.proxy).get("terminationGracePeriodSeconds", 30)
    needed = pause + seconds(overlay.setting("PROXY_FORCE_QUIT_TIMEOUT"))
    if grace <= needed:
        yield f"{label(overlay.proxy)}: terminationGracePeriodSeconds is {grace}, the drain takes up to {needed:g}"


def hardening(overlay):
    for workload in overlay.workloads:
        spec = pod(workload)
        context = spec.get("securityContext", {})
        wanted = [
            ("runAsNonRoot", context.get("runAsNonRoot") is True and context.get("runAsUser", 0) > 0),
            ("seccompProfile", context.get("seccompProfile") == {"type": "RuntimeDefault"}),
            ("automountServiceAccountToken: false", spec.get("automountServiceAccountToken") is False),
            ("enableServiceLinks: false", spec.get("enableServiceLinks") is False),
        ]
        for container in containers(workload):
            context = container.get("securityContext", {})
            resources = container.get("resources", {})
            wanted += [
                ("readOnlyRootFilesystem", context.get("readOnlyRootFilesystem") is True),
                ("allowPrivilegeEscalation: false", context.get("allowPrivilegeEscalation") is False),
                ("capabilities.drop: [ALL]", context.get("capabilities") == {"drop": ["ALL"]}),
                ("requests for cpu and memory", {"cpu", "memory"} <= resources.get("requests", {}).keys()),
                ("a limit for memory", "memory" in resources.get("limits", {})),
            ]
        for what, there in wanted:
            if not there:
                yield f"{label(workload)} lacks {what}"


def spread(overlay):
    """Every proxy and origin may be lost or moved alone."""
    for workload in overlay.workloads:
        replicated = workload["spec"]["replicas"] > 1
        budgets = [
            doc
            for doc in overlay.kind("PodDisruptionBudget")
            if workload in overlay.selected(doc["spec"]["selector"]["matchLabels"])
        ]
        if replicated and [doc["spec"].get("maxUnavailable") for doc in budgets] != [1]:
            yield f"{label(workload)} lacks a PodDisruptionBudget with maxUnavailable 1"
        affinity = pod(workload).get("affinity", {}).get("podAntiAffinity", {})
        terms = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [])
        hosts = [term for term in terms if term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"]
        if replicated and not hosts:
            yield f"{label(workload)} lacks anti-affinity over hosts"


def isolation(overlay):
    """Ports that are not for clients are open to named pods only."""
    private = {"system": "srs-origin", "gossip": PROXY, "grpc": PROXY}
    policies = [
        doc
        for doc in overlay.kind("NetworkPolicy")
        if overlay.proxy in overlay.selected(doc["spec"]["podSelector"]["matchLabels"])
    ]
    rules = [rule for doc in policies for rule in doc["spec"]["ingress"]]
    for name, _ in ports(overlay.proxy):
        if name not in private:
            continue
        open_to = [rule.get("from") for rule in rules if name in [port["port"] for port in rule["ports"]]]
        peers = [peer.get("podSelector", {}).get("matchLabels") for peers in open_to for peer in peers or [{}]]
        expected = overlay.named("Deployment", private[name]) or overlay.proxy
        if not peers or any(overlay.selected(peer) != [expected] for peer in peers):
            yield f"NetworkPolicy: port {name} is to be open to {private[name]} and nobody else"


def registration(overlay):
    """Origins send their heartbeat to a Service that is there."""
    for volume in pod(overlay.named("Deployment", "srs-origin"))["volumes"]:
        config = overlay.named("ConfigMap", volume.get("configMap", {}).get("name"))
        if not config:
            continue
        host, port, path = re.search(r"url\s+http://([^:/]+):(\d+)(\S+);", config["data"]["srs.conf"]).groups()
        service = overlay.named("Service", host)
        numbers = [entry["port"] for entry in service["spec"]["ports"]] if service else []
        if int(port) not in numbers or path != "/api/v1/srs/register":
            yield f"{label(config)}: nothing takes heartbeats at {host}:{port}{path}"


def memory(overlay):
    spec = overlay.proxy["spec"]
    if (spec["replicas"], spec.get("strategy")) != (1, {"type": "Recreate"}):
        yield f"{label(overlay.proxy)}: two proxies would not know of each other; 1 replica, strategy Recreate"


def redis(overlay):
    host, port = overlay.setting("PROXY_REDIS_HOST"), overlay.setting("PROXY_REDIS_PORT")
    service = overlay.named("Service", host)
    if not service or [entry["port"] for entry in service["spec"]["ports"]] != [int(port)]:
        yield f"there is no Redis at {host}:{port}"
    yield from secret(overlay, "PROXY_REDIS_PASSWORD")


def mesh(overlay):
    proxy = overlay.proxy
    if proxy["kind"] != "StatefulSet":
        yield f"{label(proxy)}: nodes need names that stay"
        return
    if proxy["spec"].get("podManagementPolicy") != "Parallel":
        yield f"{label(proxy)}: podManagementPolicy is not Parallel"
    if proxy["spec"]["replicas"] < 3:
        yield f"{label(proxy)} has fewer than 3 replicas"
    host, _, port = overlay.setting("PROXY_MESH_SEEDS").rpartition(":")
    if host != proxy["spec"].get("serviceName"):
        yield f"{label(proxy)}: its serviceName is not the seeds' name"
    service = overlay.named("Service", host)
    if not service or service["spec"].get("clusterIP") != "None":
        yield f"PROXY_MESH_SEEDS: {host} is no headless Service"
        return
    if service["spec"].get("publishNotReadyAddresses") is not True:
        yield f"{label(service)} lacks publishNotReadyAddresses"
    # A headless Service translates no ports.
    if ports(proxy).get(("gossip", "UDP")) != int(port):
        yield f"PROXY_MESH_SEEDS: {port} is not the port of gossip"
    if ("grpc", "TCP") not in ports(proxy):
        yield f"{label(proxy)} has no port grpc"
    yield from secret(overlay, "PROXY_MESH_KEY")
    if "PROXY_MESH_ADVERTISE_HOST" not in overlay.env(containers(proxy)[0]):
        yield f"{label(proxy)} lacks PROXY_MESH_ADVERTISE_HOST"


def secret(overlay, name):
    entries = [entry for entry in containers(overlay.proxy)[0].get("env", []) if entry["name"] == name]
    if not entries or not entries[0].get("valueFrom", {}).get("secretKeyRef"):
        yield f"{label(overlay.proxy)}: {name} does not come from a Secret"


RULES = [
    known_settings, references, selectors, target_ports, datagrams, listeners, probes, metrics, drain, hardening,
    spread, isolation, registration,
]  # fmt: skip
OF_OVERLAY = {"memory": memory, "redis": redis, "mesh": mesh}


def check(overlay):
    """All findings in one overlay. The rules may rely on the schemas."""
    findings = list(schema(overlay))
    if not findings:
        findings = [finding for rule in [*RULES, OF_OVERLAY[overlay.name]] for finding in rule(overlay)]
    return [f"{overlay.name}: {finding}" for finding in findings]


def check_dockerfile(text, settings):
    """All findings in the Dockerfile."""
    for name in re.findall(r"\bPROXY_[A-Z_]+", text):
        if name not in settings:
            yield f"Dockerfile: {name} is no setting of srs-proxy"
    exposed = re.search(r"^EXPOSE (.*)$", text, re.MULTILINE).group(1).split()
    exposed = {int(port.removesuffix("/udp")) for port in exposed}
    expected = {port_of(settings[name]) for name in LISTENERS.values() if settings.get(name)}
    if expected - exposed:
        yield f"Dockerfile: EXPOSE lacks {sorted(expected - exposed)}"
    user = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    if not user or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user[-1]):
        yield "Dockerfile: the last USER is not a number above 0, which runAsNonRoot needs"


def read_settings(text):
    """Names and defaults of what `srs-proxy --print-env` prints."""
    return dict(re.findall(r"^#(PROXY_[A-Z_]+)=(.*)$", text, re.MULTILINE))


def read_overlay(path, settings):
    return Overlay(Path(path).stem, list(yaml.safe_load_all(Path(path).read_text())), settings)


def main(settings, dockerfile, *overlays):
    settings = read_settings(Path(settings).read_text())
    findings = list(check_dockerfile(Path(dockerfile).read_text(), settings))
    for path in overlays:
        findings += check(read_overlay(path, settings))
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
