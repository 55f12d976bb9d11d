"""Each rule of check.py finds what it is there for.

Reads the same files as check.py, which K8S_BUILD names; changes one thing in them and looks for the
finding.
"""

import os
import re
import unittest
from pathlib import Path

import check

BUILD = Path(os.environ["K8S_BUILD"])
SETTINGS = check.read_settings((BUILD / "settings.env").read_text())
PROXY = "spec.template.spec"
CONTAINER = f"{PROXY}.containers.0"
GONE = object()

# Overlay, kind and name of an object, path in it, what is put there, the finding.
CHANGES = [
    ("mesh", "StatefulSet", "srs-proxy", "spec.replica", 3, "is invalid in Kubernetes 1.30"),
    ("mesh", "StatefulSet", "srs-proxy", "spec.replicas", "3", "is invalid in Kubernetes 1.30"),
    ("mesh", "PodDisruptionBudget", "srs-proxy", "apiVersion", "policy/v1beta1", "no such kind in policy/v1beta1"),
    ("memory", "Deployment", "srs-proxy", f"{CONTAINER}.env", [{"name": "PROXY_COLOUR"}], "PROXY_COLOUR is no setting"),
    ("memory", "ConfigMap", "srs-proxy", "data.PROXY_LOAD_BALANCER_TYPE", "mesh", "PROXY_LOAD_BALANCER_TYPE is mesh"),
    ("memory", "ConfigMap", "srs-origin", "metadata.name", "other", "there is no ConfigMap srs-origin"),
    ("memory", "ConfigMap", "srs-proxy", "kind", "Secret", "secrets do not belong"),
    ("memory", "Service", "srs-proxy-rtmp", "spec.selector", {"app": "other"}, "no pod matches"),
    ("memory", "PodDisruptionBudget", "srs-origin", "spec.selector.matchLabels", {"app": "other"}, "no pod matches"),
    ("mesh", "NetworkPolicy", "srs-proxy", "spec.ingress.1.from.0.podSelector.matchLabels", {"a": "b"}, "no pod"),
    ("memory", "Deployment", "srs-proxy", "spec.selector.matchLabels", {"app": "other"}, "does not match its own pods"),
    ("memory", "Service", "srs-proxy-rtmp", "spec.ports.0.targetPort", "rtmps", "has no port rtmps"),
    ("memory", "Service", "srs-proxy-udp", "spec.ports.0.protocol", "TCP", "has no port webrtc"),
    ("memory", "Service", "srs-proxy-udp", "spec.ports.0.port", 8000, "answers to offers name port 18000"),
    ("memory", "ConfigMap", "srs-proxy", "data.PROXY_WEBRTC_SERVER", "8000", "answers to offers name port 8000"),
    ("memory", "Service", "srs-proxy-udp", "spec.sessionAffinity", GONE, "reach several nodes"),
    ("memory", "Service", "srs-proxy-udp", "spec.externalTrafficPolicy", GONE, "addresses of clients are lost"),
    ("memory", "NetworkPolicy", "srs-origin", "spec.ingress.0.ports.0.port", "rtmps", "has no port rtmps"),
    ("memory", "Deployment", "srs-proxy", f"{CONTAINER}.ports.0.containerPort", 1935, "port rtmp is 1935, but"),
    ("memory", "ConfigMap", "srs-proxy", "data.PROXY_SYSTEM_API", "[::]:80", "port system is 12025, but"),
    ("memory", "Deployment", "srs-proxy", f"{CONTAINER}.readinessProbe", GONE, "has no readinessProbe"),
    ("memory", "Deployment", "srs-proxy", f"{CONTAINER}.readinessProbe.httpGet.path", "/", "does not ask for /readyz"),
    ("memory", "Deployment", "srs-origin", f"{CONTAINER}.livenessProbe.httpGet.port", "api", "asks at port api"),
    ("redis", "StatefulSet", "srs-proxy-redis", f"{CONTAINER}.livenessProbe.tcpSocket.port", "r", "asks at port r"),
    ("memory", "Deployment", "srs-proxy", f"{CONTAINER}.lifecycle", GONE, "without a pause in preStop"),
    ("memory", "Deployment", "srs-proxy", f"{PROXY}.terminationGracePeriodSeconds", 35, "takes up to 35"),
    ("memory", "Deployment", "srs-proxy", f"{PROXY}.terminationGracePeriodSeconds", GONE, "takes up to 35"),
    ("mesh", "ConfigMap", "srs-proxy", "data.PROXY_FORCE_QUIT_TIMEOUT", "1m30s", "takes up to 95"),
    ("memory", "Deployment", "srs-proxy", f"{PROXY}.securityContext.runAsNonRoot", GONE, "lacks runAsNonRoot"),
    ("memory", "Deployment", "srs-origin", f"{PROXY}.securityContext.runAsUser", 0, "lacks runAsNonRoot"),
    ("memory", "Deployment", "srs-origin", f"{PROXY}.securityContext.seccompProfile", GONE, "lacks seccompProfile"),
    ("redis", "StatefulSet", "srs-proxy-redis", f"{PROXY}.enableServiceLinks", GONE, "lacks enableServiceLinks"),
    ("redis", "StatefulSet", "srs-proxy-redis", f"{PROXY}.automountServiceAccountToken", GONE, "lacks automount"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.securityContext.readOnlyRootFilesystem", GONE, "lacks readOnly"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.securityContext.capabilities", GONE, "lacks capabilities.drop"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.securityContext.allowPrivilegeEscalation", True, "lacks allow"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.resources.requests.cpu", GONE, "lacks requests for cpu"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.resources.limits", GONE, "lacks a limit for memory"),
    ("mesh", "PodDisruptionBudget", "srs-proxy", "spec.maxUnavailable", 2, "lacks a PodDisruptionBudget"),
    ("mesh", "StatefulSet", "srs-proxy", f"{PROXY}.affinity", GONE, "lacks anti-affinity"),
    ("mesh", "NetworkPolicy", "srs-proxy-mesh", "spec.ingress.0.from", GONE, "port gossip is to be open to srs-proxy"),
    ("mesh", "NetworkPolicy", "srs-proxy-mesh", "spec.ingress.0.ports.1", GONE, "port grpc is to be open to srs-proxy"),
    ("memory", "NetworkPolicy", "srs-proxy", "spec.ingress.1.from", [{}], "port system is to be open to srs-origin"),
    ("mesh", "NetworkPolicy", "srs-proxy", "spec.ingress.2.from", GONE, "port metrics is to be open to the pods"),
    ("memory", "Deployment", "srs-proxy", "spec.template.metadata.annotations", {}, "does not find the metrics"),
    ("memory", "Deployment", "srs-proxy", f"{CONTAINER}.ports.2.containerPort", 9100, "does not find the metrics"),
    ("memory", "ConfigMap", "srs-proxy", "data.PROXY_EXPORTER_LISTEN", GONE, "nothing listens at port 12028"),
    ("memory", "Service", "srs-proxy-api", "metadata.name", "api", "nothing takes heartbeats at srs-proxy-api:12025"),
    ("memory", "Service", "srs-proxy-api", "spec.ports.0.port", 80, "nothing takes heartbeats at srs-proxy-api:12025"),
    ("memory", "Deployment", "srs-proxy", "spec.replicas", 2, "two proxies would not know of each other"),
    ("memory", "Deployment", "srs-proxy", "spec.strategy", GONE, "two proxies would not know of each other"),
    ("redis", "Service", "srs-proxy-redis", "spec.ports.0.port", 6380, "there is no Redis at srs-proxy-redis:6379"),
    ("redis", "Deployment", "srs-proxy", f"{CONTAINER}.env.0.valueFrom", GONE, "PROXY_REDIS_PASSWORD does not come"),
    ("mesh", "StatefulSet", "srs-proxy", "spec.podManagementPolicy", GONE, "podManagementPolicy is not Parallel"),
    ("mesh", "StatefulSet", "srs-proxy", "spec.replicas", 2, "fewer than 3 replicas"),
    ("mesh", "StatefulSet", "srs-proxy", "spec.serviceName", "other", "serviceName is not the seeds' name"),
    ("mesh", "Service", "srs-proxy-mesh", "spec.clusterIP", GONE, "srs-proxy-mesh is no headless Service"),
    ("mesh", "Service", "srs-proxy-mesh", "spec.publishNotReadyAddresses", GONE, "lacks publishNotReadyAddresses"),
    ("mesh", "ConfigMap", "srs-proxy", "data.PROXY_MESH_SEEDS", "srs-proxy-mesh:1", "1 is not the port of gossip"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.ports.8", GONE, "has no port grpc"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.env.1.valueFrom", GONE, "PROXY_MESH_KEY does not come"),
    ("mesh", "StatefulSet", "srs-proxy", f"{CONTAINER}.env.0", GONE, "lacks PROXY_MESH_ADVERTISE_HOST"),
]  # fmt: skip


def named(docs, kind, name):
    """The only object of that name; generated names have a hash behind it."""
    generated = re.compile(re.escape(name) + (r"-[0-9a-z]{10}" if kind == "ConfigMap" else ""))
    (doc,) = [doc for doc in docs if doc["kind"] == kind and generated.fullmatch(doc["metadata"]["name"])]
    return doc


def put(doc, path, value):
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in parents:
        doc = doc[key]
    if value is GONE:
        del doc[last]
    else:
        doc[last] = value


def findings(overlay, change=None):
    read = check.read_overlay(BUILD / f"{overlay}.yaml", SETTINGS)
    if change:
        kind, name, path, value = change
        put(named(read.docs, kind, name), path, value)
    return check.check(read)


class EveryRule(unittest.TestCase):
    def test_finds_what_it_is_there_for(self):
        as_built = {overlay: findings(overlay) for overlay in check.OF_OVERLAY}
        for overlay, *change, expected in CHANGES:
            with self.subTest(overlay=overlay, change=change):
                told = [finding for finding in findings(overlay, change) if finding not in as_built[overlay]]
                self.assertTrue(any(expected in finding for finding in told), told)

    def test_finds_a_mesh_whose_nodes_have_no_names_that_stay(self):
        deployment = check.read_overlay(BUILD / "memory.yaml", SETTINGS)
        self.assertEqual(list(check.mesh(deployment)), ["Deployment srs-proxy: nodes need names that stay"])

    def test_finds_what_is_wrong_in_the_dockerfile(self):
        good = "EXPOSE 11935 12025 11985 18080 18000/udp 20080/udp 12026/udp 12027\nUSER 65532:65532\n"
        self.assertEqual(list(check.check_dockerfile(good, SETTINGS)), [])
        for text, expected in [
            (good.replace("11935 ", ""), "EXPOSE lacks [11935]"),
            (good.replace("65532:65532", "nonroot"), "the last USER is not a number"),
            (good.replace("65532:65532", "0"), "the last USER is not a number"),
            (good + "USER root\n", "the last USER is not a number"),
            (good + "ENV PROXY_COLOUR=red\n", "PROXY_COLOUR is no setting"),
        ]:
            with self.subTest(expected=expected):
                told = list(check.check_dockerfile(text, SETTINGS))
                self.assertTrue(any(expected in finding for finding in told), told)


if __name__ == "__main__":
    unittest.main()
