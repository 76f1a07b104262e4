{{/*
pyncette.name: what all of the release's objects are an instance of.
*/}}
{{- define "pyncette.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
pyncette.fullname: the name of the release's objects, before it is cut. The release pyncette, and the release
pyncette-operator, have objects that are called pyncette-operator; the release x has x-pyncette-operator. The name of a
Service has to begin with a letter, which that of a release need not.
*/}}
{{- define "pyncette.fullname" -}}
{{- $name := include "pyncette.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if regexMatch "^[0-9]" .Release.Name -}}
{{- printf "%s-%s" $name .Release.Name -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name -}}
{{- else if hasPrefix (printf "%s-" .Release.Name) $name -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- end -}}

{{/*
pyncette.named: the name of one object, of at most "max" (63) characters. Of a longer one the end is replaced by a hash,
so that names that differ still do. Call with (dict "root" $ "suffix" "metrics" "max" 52).
*/}}
{{- define "pyncette.named" -}}
{{- $whole := include "pyncette.fullname" .root -}}
{{- $suffix := ternary (printf "-%s" .suffix) "" (not (empty .suffix)) -}}
{{- $room := sub (.max | default 63) (len $suffix) | int -}}
{{- if gt (len $whole) $room -}}
{{- printf "%s-%s%s" ($whole | trunc (sub $room 9 | int) | trimSuffix "-") ($whole | sha256sum | trunc 8) $suffix -}}
{{- else -}}
{{- printf "%s%s" $whole $suffix -}}
{{- end -}}
{{- end -}}

{{- define "pyncette.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "pyncette.named" (dict "root" .)) -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
pyncette.selectorLabels: what tells the pods of a component from all others. They can never be changed.
Call with (dict "root" $ "component" "operator").
*/}}
{{- define "pyncette.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pyncette.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/*
pyncette.labels: those, and what else is known. Call likewise, and with "extra" labels if there are some.
The chart's own win, and a key stands once.
*/}}
{{- define "pyncette.labels" -}}
{{- $own := include "pyncette.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "pyncette" -}}
{{- $_ := set $own "app.kubernetes.io/version" (.root.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (merge $own (.extra | default dict) .root.Values.commonLabels) -}}
{{- end -}}

{{/*
pyncette.image: the reference of an image. Call with (dict "image" .Values.image "tag" .Chart.AppVersion).
*/}}
{{- define "pyncette.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}

{{/*
pyncette.backends: all backends in full, the embedded one among them, as {"backends": […]}.
*/}}
{{- define "pyncette.backends" -}}
{{- $all := list -}}
{{- $given := .Values.backends -}}
{{- with .Values.backend.embedded -}}
{{- if .enabled -}}
{{- $own := pick . "name" "secretName" "secretKey" "namespaces" "migrate" -}}
{{- /* Its pod has no certificate. */ -}}
{{- $_ := set $own "tls" "Disabled" -}}
{{- $folder := printf "/etc/pyncette/backends/%s" .name -}}
{{- $_ := set $own "roles" (dict
      "administrator" .username
      "passwordFile" (printf "%s/password" $folder)
      "workerUrlFile" (printf "%s/worker-url" $folder)) -}}
{{- $given = append $given $own -}}
{{- end -}}
{{- end -}}
{{- range $given -}}
{{- $all = append $all (dict
      "name" .name
      "secretName" .secretName
      "secretKey" (.secretKey | default "url")
      "workerSecretName" (.workerSecretName | default "")
      "urlFile" (printf "/etc/pyncette/backends/%s/url" .name)
      "tls" (.tls | default "Required")
      "namespaces" (.namespaces | default list)
      "namespaceSelector" .namespaceSelector
      "migrate" (.migrate | default "Auto")
      "roles" .roles) -}}
{{- end -}}
{{- toYaml (dict "backends" $all) -}}
{{- end -}}

{{/*
pyncette.open: the namespaces that the operator watches and whose pools may use a backend, as far as they are listed, as
{"namespaces": […]}; "*" stands for all. Call with (dict "root" $ "backend" one of the backends).
*/}}
{{- define "pyncette.open" -}}
{{- $allowed := .backend.namespaces -}}
{{- $watched := .root.Values.namespaces -}}
{{- $open := $allowed -}}
{{- if $watched -}}
{{- $open = list -}}
{{- range $watched -}}
{{- if or (has "*" $allowed) (has . $allowed) -}}
{{- $open = append $open . -}}
{{- end -}}
{{- end -}}
{{- else if has "*" $allowed -}}
{{- $open = list "*" -}}
{{- end -}}
{{- toYaml (dict "namespaces" $open) -}}
{{- end -}}

{{/*
pyncette.hasLabel: a CEL expression: whether the namespace of a request has a label.
Call with (dict "label" "example.org/a" "value" "b").
*/}}
{{- define "pyncette.hasLabel" -}}
namespaceObject.metadata.?labels[?'{{ .label }}'] == optional.of('{{ .value }}')
{{- end -}}

{{/*
pyncette.isOpen: a CEL expression: whether the namespace of a request is one that some backend is open to. Empty if a
backend is open to all.
*/}}
{{- define "pyncette.isOpen" -}}
{{- $names := list -}}
{{- $alternatives := list -}}
{{- range (include "pyncette.backends" . | fromYaml).backends -}}
{{- if .namespaceSelector -}}
{{- $labels := list -}}
{{- range $label, $value := .namespaceSelector.matchLabels -}}
{{- $labels = append $labels (include "pyncette.hasLabel" (dict "label" $label "value" $value)) -}}
{{- end -}}
{{- $alternatives = append $alternatives (join " && " $labels) -}}
{{- else -}}
{{- $names = concat $names (include "pyncette.open" (dict "root" $ "backend" .) | fromYaml).namespaces -}}
{{- end -}}
{{- end -}}
{{- if $names -}}
{{- $alternatives = prepend $alternatives (printf "request.namespace in %s" (uniq $names | toJson | replace "\"" "'")) -}}
{{- end -}}
{{- if not (has "*" $names) -}}
{{- join " || " $alternatives -}}
{{- end -}}
{{- end -}}

{{/*
pyncette.ownSecrets: the Secrets that the operator's pod reads, but for those of the backends, as {"names": […]}.
*/}}
{{- define "pyncette.ownSecrets" -}}
{{- $names := list -}}
{{- range .Values.extraVolumes -}}
{{- $names = append $names (dig "secret" "secretName" "" .) -}}
{{- range dig "projected" "sources" list . -}}
{{- $names = append $names (dig "secret" "name" "" .) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- $names = append $names (dig "valueFrom" "secretKeyRef" "name" "" .) -}}
{{- end -}}
{{- range .Values.extraEnvFrom -}}
{{- $names = append $names (dig "secretRef" "name" "" .) -}}
{{- end -}}
{{- $names = append $names .Values.metrics.tls.secretName -}}
{{- toYaml (dict "names" (without (uniq $names) "")) -}}
{{- end -}}

{{/*
pyncette.settings: the settings file of the operator. Without releaseNamespace, which the pod knows by itself.
*/}}
{{- define "pyncette.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- /* Without the field, the operator would take its own defaults. */ -}}
{{- $_ := set $settings.workers "resources" ($settings.workers.resources | default dict) -}}
{{- $_ := set $settings "clusterId" .Values.clusterId -}}
{{- $_ := set $settings "namespaces" .Values.namespaces -}}
{{- $_ := set $settings "backends" (include "pyncette.backends" . | fromYaml).backends -}}
{{- $_ := set $settings "ownSecrets" (include "pyncette.ownSecrets" . | fromYaml).names -}}
{{- $_ := set $settings "health" 8080 -}}
{{- $_ := set $settings "metrics" (ternary 9090 0 .Values.metrics.enabled) -}}
{{- $_ := set $settings "metricsCertificate" (ternary "" "/etc/pyncette/metrics" (empty .Values.metrics.tls.secretName)) -}}
{{- $_ := set $settings "metricsAuthentication" .Values.metrics.authentication.enabled -}}
{{- toYaml $settings -}}
{{- end -}}

{{/*
pyncette.workerLabels: what the operator puts on the pods of every pool.
*/}}
{{- define "pyncette.workerLabels" -}}
app.kubernetes.io/name: pyncette-worker
app.kubernetes.io/managed-by: pyncette-operator
{{- end -}}

{{/*
pyncette.workerNamespaces: the namespaces in which the chart creates policies for workers, as {"namespaces": […]}.
*/}}
{{- define "pyncette.workerNamespaces" -}}
{{- toYaml (dict "namespaces" (concat .Values.namespaces .Values.networkPolicy.workers.namespaces | uniq)) -}}
{{- end -}}

{{/*
pyncette.policyTypes: the directions that a NetworkPolicy limits. Call with the values of its egress.
*/}}
{{- define "pyncette.policyTypes" -}}
{{- ternary "[Ingress, Egress]" "[Ingress]" .enabled -}}
{{- end -}}

{{/*
pyncette.metricsIngress: the rule for those who read metrics; empty if nobody may. Nothing else is let in. The probes of
the kubelet need no rule: "traffic to and from the node where a Pod is running is always allowed"
(https://kubernetes.io/docs/concepts/services-networking/network-policies/).
*/}}
{{- define "pyncette.metricsIngress" -}}
{{- with .Values.networkPolicy.metricsFrom -}}
{{- toYaml (dict "ports" (list (dict "port" "metrics" "protocol" "TCP")) "from" .) -}}
{{- end -}}
{{- end -}}

{{/*
pyncette.egress: rules for DNS, the embedded PostgreSQL, and the servers in "to". Call with (dict "root" $ "to" […]).
*/}}
{{- define "pyncette.egress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  {{- with .root.Values.networkPolicy.egress.dns }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if .root.Values.backend.embedded.enabled }}
- ports:
    - {port: 5432, protocol: TCP}
  to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .root.Release.Namespace | quote }}
      podSelector:
        matchLabels:
          {{- include "pyncette.selectorLabels" (dict "root" .root "component" "postgresql") | nindent 10 }}
{{- end }}
{{- range .to }}
- to:
    {{- if .cidr }}
    - ipBlock:
        cidr: {{ .cidr | quote }}
    {{- else }}
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .namespace | quote }}
    {{- end }}
  {{- with .ports }}
  ports:
    {{- range . }}
    - {port: {{ . | int64 }}, protocol: TCP}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/*
pyncette.checked: nothing, or a sentence on what is wrong with values that each for itself are right.
*/}}
{{- define "pyncette.checked" -}}
{{- $backends := (include "pyncette.backends" . | fromYaml).backends -}}
{{- if not $backends -}}
{{- fail "No backend is configured. Pass a Secret with the URL of a database: --set 'backends[0].name=default' --set 'backends[0].secretName=pyncette-backend' --set 'backends[0].namespaces={shop}' (or, for evaluation, set backend.embedded.enabled, backend.embedded.secretName and backend.embedded.namespaces)." -}}
{{- end -}}
{{- if and .Values.namespaces (not .Values.clusterId) -}}
{{- fail "clusterId is required with namespaces, since the operator then cannot read the uid of kube-system. Choose a name that is unique among the clusters on the database, and do not change it." -}}
{{- end -}}
{{- $names := list -}}
{{- range $backends -}}
{{- if has .name $names -}}
{{- fail (printf "Two backends have the name %q. Rename one of them (backend.embedded.name is the name of the embedded one)." .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- if .namespaceSelector -}}
{{- if .namespaces -}}
{{- fail (printf "The backend %q has namespaces and a namespaceSelector. Remove one of them." .name) -}}
{{- end -}}
{{- if $.Values.namespaces -}}
{{- fail (printf "The backend %q has a namespaceSelector, for which the operator needs the right to list the namespaces of the cluster. With namespaces, it has no such right: list the namespaces of the backend, too." .name) -}}
{{- end -}}
{{- else if not .namespaces -}}
{{- fail (printf "The backend %q is open to no namespace. List the namespaces whose pools may use it in its namespaces (\"*\" for all), or set its namespaceSelector." .name) -}}
{{- else if not (include "pyncette.open" (dict "root" $ "backend" .) | fromYaml).namespaces -}}
{{- fail (printf "No pool can use the backend %q: it is open only to %s, and the operator serves %s. Add some of these to the namespaces of the backend, or \"*\"." .name (join ", " .namespaces) (join ", " $.Values.namespaces)) -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.name is required if serviceAccount.create is false: pass the name of an existing ServiceAccount." -}}
{{- end -}}
{{- $alerts := list -}}
{{- range $_, $group := .Files.Get "files/alerts.yaml" | fromYaml -}}
{{- range $group -}}
{{- $alerts = append $alerts .alert -}}
{{- end -}}
{{- end -}}
{{- range .Values.prometheusRule.disabled -}}
{{- if not (has . $alerts) -}}
{{- fail (printf "unknown alert %q in prometheusRule.disabled. Valid alerts: %s." . (join ", " $alerts)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.authentication.enabled (not .Values.metrics.tls.secretName) -}}
{{- fail "metrics.authentication.enabled requires metrics.tls.secretName, so that the tokens of readers are encrypted: pass the name of a Secret with a certificate (tls.crt, tls.key, ca.crt)." -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "serviceMonitor.enabled requires metrics.enabled, which is false." -}}
{{- end -}}
{{- with .Values.networkPolicy -}}
{{- if and .enabled .egress.enabled (not (concat .egress.to .extraEgress)) -}}
{{- fail "networkPolicy.egress.enabled would cut off the operator from the API server. List the address of the API server and the backends in networkPolicy.egress.to, each with a cidr or a namespace, and its ports." -}}
{{- end -}}
{{- if and .enabled .workers.egress.enabled -}}
{{- if not (include "pyncette.workerNamespaces" $ | fromYaml).namespaces -}}
{{- fail "networkPolicy.workers.egress has no effect: the chart knows no namespace of workers. List the namespaces in networkPolicy.workers.namespaces." -}}
{{- end -}}
{{- if not (or .workers.egress.to $.Values.backend.embedded.enabled) -}}
{{- fail "networkPolicy.workers.egress.enabled would cut off the workers from their backend. List its address in networkPolicy.workers.egress.to, with a cidr or a namespace, and its ports." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.backend.embedded -}}
{{- if .enabled -}}
{{- if not .secretName -}}
{{- fail (printf "backend.embedded.secretName is required: pass the name of a Secret with the keys %s, %s and %s. The chart does not create passwords." .passwordKey .secretKey .workerKey) -}}
{{- end -}}
{{- if and .emptyDir (or .existingClaim (not (kindIs "invalid" .storageClass))) -}}
{{- fail "backend.embedded.emptyDir is mutually exclusive with existingClaim and storageClass." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
