{{- define "headrace.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "headrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "headrace.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "headrace.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "headrace.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headrace
{{- end -}}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ include "headrace.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "headrace.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default .version) -}}
{{- end -}}
{{- end -}}

{{- define "headrace.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "headrace.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* pipeline.yaml, with Triton's address if the chart runs it. */}}
{{- define "headrace.pipeline" -}}
{{- $pipeline := deepCopy .Values.pipeline -}}
{{- if .Values.triton.enabled -}}
{{- $given := dig "triton" (dict) $pipeline -}}
{{- if not (hasKey $given "url") -}}
{{- $address := printf "dns:///%s-triton:8001" (include "headrace.fullname" .) -}}
{{- $_ := set $pipeline "triton" (merge (dict "url" $address) $given) -}}
{{- end -}}
{{- end -}}
{{- toYaml $pipeline -}}
{{- end -}}

{{/* The group is the pipeline's name. */}}
{{- define "headrace.group" -}}
{{- .Values.pipeline.name | default "headrace" -}}
{{- end -}}

{{/* What is in flight is drained, then the process ends. */}}
{{- define "headrace.terminationSeconds" -}}
{{- $drain := dig "worker" "drain_timeout_seconds" 10 .Values.pipeline -}}
{{- add (ceil $drain | int) (int .Values.workers.graceSeconds) -}}
{{- end -}}

{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Environment, mounts and volumes of every pod that runs the command headrace. */}}
{{- define "headrace.env" -}}
- {name: HEADRACE_CONFIG, value: /etc/headrace/pipeline.yaml}
- {name: HEADRACE_HOME, value: /tmp/headrace}
- {name: HEADRACE_CACHE, value: /tmp/headrace-cache}
{{- range .Values.secrets.env }}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .secret | quote }}, key: {{ .key | quote }}}
{{- end }}
{{- end -}}

{{- define "headrace.mounts" -}}
- {name: pipeline, mountPath: /etc/headrace/pipeline.yaml, subPath: pipeline.yaml, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .Values.userCode.configMap }}
- {name: user-code, mountPath: /etc/headrace/code, readOnly: true}
{{- end }}
{{- range .Values.secrets.files }}
- {name: {{ printf "secret-%s" .secret | trunc 63 | quote }}, mountPath: {{ .path | quote }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "headrace.volumes" -}}
- {name: tmp, emptyDir: {}}
{{- if .Values.userCode.configMap }}
- name: user-code
  configMap: {name: {{ .Values.userCode.configMap | quote }}}
{{- end }}
{{- range .Values.secrets.files }}
- name: {{ printf "secret-%s" .secret | trunc 63 | quote }}
  secret: {secretName: {{ .secret | quote }}, defaultMode: 288}
{{- end }}
{{- end -}}

{{/* A container that runs the command headrace once. */}}
{{- define "headrace.toolContainer" -}}
{{- $root := .root -}}
- name: {{ .container.name }}
  image: {{ include "headrace.image" (dict "image" $root.Values.image "version" $root.Chart.AppVersion) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
    {{- toYaml .container.args | nindent 4 }}
  env:
    {{- include "headrace.env" $root | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {memory: 256Mi}
  securityContext:
    {{- include "headrace.containerSecurity" $root | nindent 4 }}
  volumeMounts:
    {{- include "headrace.mounts" $root | nindent 4 }}
{{- end -}}
