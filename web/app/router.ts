// Addresses and their pages. Each page is loaded when it is first opened.
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from '@tanstack/react-router';
import { loadPart } from '../data/part.ts';
import { listSearch } from '../ui/list-search.ts';
import { NotFound, PageFailure } from './page-failure.tsx';
import { Shell } from './shell.tsx';

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound, errorComponent: PageFailure });

const home = createRoute({
  getParentRoute: () => root,
  path: '/',
  beforeLoad: () => {
    // The router tells a redirection by what is thrown.
    // oxlint-disable-next-line typescript/only-throw-error
    throw redirect({ href: '/vms' });
  },
});

const lazyPage: typeof lazyRouteComponent = (load, name) => lazyRouteComponent(() => loadPart(load), name);

type PageComponent = ReturnType<typeof lazyRouteComponent>;
const page = (path: string, component: PageComponent) =>
  createRoute({ getParentRoute: () => root, path, component, errorComponent: PageFailure });
/** A page whose address says what of its list is shown. */
const list = (path: string, component: PageComponent) =>
  createRoute({ getParentRoute: () => root, path, component, validateSearch: listSearch, errorComponent: PageFailure });

const vmPage = lazyPage(() => import('../vm/vm-page.tsx'), 'VmPage');

const nodePage = lazyPage(() => import('../node/node-page.tsx'), 'NodePage');

const routes = [
  home,
  list(
    '/vms',
    lazyPage(() => import('../vm/vm-list-page.tsx'), 'VmListPage'),
  ),
  page(
    '/vms/new',
    lazyPage(() => import('../vm/create-page.tsx'), 'CreatePage'),
  ),
  page('/vms/$vm', vmPage),
  page('/vms/$vm/$tab', vmPage),
  list(
    '/networks',
    lazyPage(() => import('../network/network-pages.tsx'), 'NetworkListPage'),
  ),
  page(
    '/networks/$name',
    lazyPage(() => import('../network/network-pages.tsx'), 'NetworkPage'),
  ),
  page(
    '/firewall',
    lazyPage(() => import('../firewall/firewall-page.tsx'), 'FirewallPage'),
  ),
  page(
    '/firewall/explain',
    lazyPage(() => import('../firewall/explain-page.tsx'), 'ExplainPage'),
  ),
  list(
    '/firewall/security-groups',
    lazyPage(() => import('../firewall/security-group-pages.tsx'), 'SecurityGroupListPage'),
  ),
  page(
    '/firewall/security-groups/$name',
    lazyPage(() => import('../firewall/security-group-pages.tsx'), 'SecurityGroupPage'),
  ),
  list(
    '/firewall/address-sets',
    lazyPage(() => import('../firewall/address-set-pages.tsx'), 'AddressSetListPage'),
  ),
  page(
    '/firewall/address-sets/$name',
    lazyPage(() => import('../firewall/address-set-pages.tsx'), 'AddressSetPage'),
  ),
  list(
    '/volumes',
    lazyPage(() => import('../volume/volume-pages.tsx'), 'VolumeListPage'),
  ),
  page(
    '/volumes/$name',
    lazyPage(() => import('../volume/volume-pages.tsx'), 'VolumePage'),
  ),
  list(
    '/images',
    lazyPage(() => import('../image/image-pages.tsx'), 'ImageListPage'),
  ),
  page(
    '/images/$name',
    lazyPage(() => import('../image/image-pages.tsx'), 'ImagePage'),
  ),
  list(
    '/templates',
    lazyPage(() => import('../template/template-pages.tsx'), 'TemplateListPage'),
  ),
  page(
    '/templates/$name',
    lazyPage(() => import('../template/template-pages.tsx'), 'TemplatePage'),
  ),
  list(
    '/profiles',
    lazyPage(() => import('../profile/profile-pages.tsx'), 'ProfileListPage'),
  ),
  page(
    '/profiles/$name',
    lazyPage(() => import('../profile/profile-pages.tsx'), 'ProfilePage'),
  ),
  list(
    '/instance-types',
    lazyPage(() => import('../instance-type/instance-type-pages.tsx'), 'InstanceTypeListPage'),
  ),
  page(
    '/instance-types/$name',
    lazyPage(() => import('../instance-type/instance-type-pages.tsx'), 'InstanceTypePage'),
  ),
  list(
    '/groups',
    lazyPage(() => import('../group/group-pages.tsx'), 'GroupListPage'),
  ),
  page(
    '/groups/$name',
    lazyPage(() => import('../group/group-pages.tsx'), 'GroupPage'),
  ),
  page('/nodes/$node', nodePage),
  page('/nodes/$node/$tab', nodePage),
  page(
    '/tokens',
    lazyPage(() => import('../token/token-list-page.tsx'), 'TokenListPage'),
  ),
  list(
    '/tasks',
    lazyPage(() => import('../task/task-list-page.tsx'), 'TaskListPage'),
  ),
  page(
    '/tasks/$task',
    lazyPage(() => import('../task/task-page.tsx'), 'TaskPage'),
  ),
  list(
    '/events',
    lazyPage(() => import('../event/event-list-page.tsx'), 'EventListPage'),
  ),
  page(
    '/settings',
    lazyPage(() => import('../settings/settings-page.tsx'), 'SettingsPage'),
  ),
];

export const router = createRouter({
  routeTree: root.addChildren(routes),
  defaultPreload: false,
  scrollRestoration: true,
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}
