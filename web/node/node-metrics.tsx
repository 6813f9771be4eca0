// What a node has used over time.
import { type NodeSeries } from '../../src/api/metrics.ts';
import { type Node } from '../../src/api/node.ts';
import { client } from '../data/client.ts';
import { formatBytes, formatMib, formatPercent } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { MetricsView, type MetricsPlot } from '../ui/metrics-view.tsx';

export function NodeMetrics({ node }: { node: Node }) {
  const t = useText();
  const perSecond = (value: number): string => `${formatBytes(value)}/s`;
  const plots: MetricsPlot<NodeSeries>[] = [
    {
      title: t('metrics.cpu'),
      lines: [{ series: 'cpuPercent', label: t('vm.cpu'), color: '#d06a22' }],
      format: formatPercent,
      atLeast: 5,
    },
    {
      title: t('vm.memory'),
      lines: [{ series: 'memoryUsedMib', label: t('vm.memory'), color: '#3c7dd9' }],
      format: formatMib,
    },
    {
      title: t('node.pressure'),
      lines: [
        { series: 'cpuPressurePercent', label: t('vm.cpu'), color: '#d06a22' },
        { series: 'memoryPressurePercent', label: t('vm.memory'), color: '#3c7dd9' },
        { series: 'ioPressurePercent', label: t('vm.tab.disks'), color: '#2f9e58' },
      ],
      format: formatPercent,
      atLeast: 5,
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
  ];
  return (
    <MetricsView
      queryKey={['node', node.id]}
      read={(query) => client.node.metrics({ params: { node: node.name }, query })}
      plots={plots}
    />
  );
}
