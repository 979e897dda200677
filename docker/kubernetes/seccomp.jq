# Makes docker/kubernetes/seccomp.json of docker/seccomp.json:
#
#   jq -f docker/kubernetes/seccomp.jq docker/seccomp.json >docker/kubernetes/seccomp.json
#
# Docker decides by capability and architecture which rules of its profile hold ("includes",
# "excludes"). containerd reads a profile of Kubernetes as the runtime specification writes it and
# does not know those fields: "allow mount if CAP_SYS_ADMIN" would become "allow mount". So they are
# decided here, for a container without any capability, on x86-64 or 64-bit ARM.

def holds($name; $wanted): .[$name] == null or any(.[$name][]; IN($wanted[]));

["amd64", "arm64"] as $arches
| del(.archMap)
| .architectures = [
    "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"
  ]
| .syscalls |= map(
    select((.includes // {}) | .caps == null and holds("arches"; $arches))
    | del(.includes, .excludes)
  )
