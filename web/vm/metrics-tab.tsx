// What a VM has used over time.
import { type VmSeries } from '../../src/api/metrics.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { formatBytes, formatMib, formatNumber, formatPercent } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { MetricsView, type MetricsPlot } from '../ui/metrics-view.tsx';

export function MetricsTab({ vm }: { vm: Vm }) {
  const t = useText();
  const perSecond = (value: number): string => `${formatBytes(value)}/s`;
  const plots: MetricsPlot<VmSeries>[] = [
    {
      title: t('metrics.cpu'),
      lines: [{ series: 'cpuPercent', label: t('vm.cpu'), color: '#d06a22' }],
      format: formatPercent,
      atLeast: 5,
    },
    {
      title: t('metrics.memory'),
      lines: [{ series: 'memoryMib', label: t('vm.memory'), color: '#3c7dd9' }],
      format: formatMib,
    },
    {
      title: t('metrics.disk'),
      lines: [
        { series: 'diskReadBytesPerS', label: t('metrics.read'), color: '#2f9e58' },
        { series: 'diskWriteBytesPerS', label: t('metrics.write'), color: '#d06a22' },
      ],
      format: perSecond,
      atLeast: 1024,
    },
    {
      title: t('metrics.network'),
      lines: [
        { series: 'networkReceiveBytesPerS', label: t('metrics.receive'), color: '#2f9e58' },
        { series: 'networkSendBytesPerS', label: t('metrics.send'), color: '#d06a22' },
      ],
      format: perSecond,
      atLeast: 1024,
    },
    {
      title: t('metrics.operations'),
      lines: [{ series: 'diskOperationsPerS', label: t('metrics.per-second'), color: '#7a5cc9' }],
      format: (value) => formatNumber(value, 1),
      atLeast: 5,
    },
    {
      title: t('metrics.latency'),
      lines: [{ series: 'diskLatencyMs', label: 'ms', color: '#c2410c' }],
      format: (value) => `${formatNumber(value, 2)} ms`,
      atLeast: 1,
    },
  ];
  return (
    <MetricsView
      queryKey={['vm', vm.id]}
      read={(query) => client.vm.metrics({ params: { vm: vm.id }, query })}
      plots={plots}
    />
  );
}
