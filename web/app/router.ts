// Addresses and their pages. Each page is loaded when it is first opened.
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from '@tanstack/react-router';
import { listSearch } from '../ui/list-page.tsx';
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

type PageComponent = ReturnType<typeof lazyRouteComponent>;
const page = (path: string, component: PageComponent) =>
  createRoute({ getParentRoute: () => root, path, component, errorComponent: PageFailure });
/** A page whose address says what of its list is shown. */
const list = (path: string, component: PageComponent) =>
  createRoute({ getParentRoute: () => root, path, component, validateSearch: listSearch, errorComponent: PageFailure });

const vmPage = lazyRouteComponent(() => import('../vm/vm-page.tsx'), 'VmPage');

const nodePage = lazyRouteComponent(() => import('../node/node-page.tsx'), 'NodePage');

const routes = [
  home,
  list(
    '/vms',
    lazyRouteComponent(() => import('../vm/vm-list-page.tsx'), 'VmListPage'),
  ),
  page(
    '/vms/new',
    lazyRouteComponent(() => import('../vm/create-page.tsx'), 'CreatePage'),
  ),
  page('/vms/$vm', vmPage),
  page('/vms/$vm/$tab', vmPage),
  list(
    '/networks',
    lazyRouteComponent(() => import('../network/network-pages.tsx'), 'NetworkListPage'),
  ),
  page(
    '/networks/$name',
    lazyRouteComponent(() => import('../network/network-pages.tsx'), 'NetworkPage'),
  ),
  list(
    '/volumes',
    lazyRouteComponent(() => import('../volume/volume-pages.tsx'), 'VolumeListPage'),
  ),
  page(
    '/volumes/$name',
    lazyRouteComponent(() => import('../volume/volume-pages.tsx'), 'VolumePage'),
  ),
  list(
    '/images',
    lazyRouteComponent(() => import('../image/image-pages.tsx'), 'ImageListPage'),
  ),
  page(
    '/images/$name',
    lazyRouteComponent(() => import('../image/image-pages.tsx'), 'ImagePage'),
  ),
  list(
    '/templates',
    lazyRouteComponent(() => import('../template/template-pages.tsx'), 'TemplateListPage'),
  ),
  page(
    '/templates/$name',
    lazyRouteComponent(() => import('../template/template-pages.tsx'), 'TemplatePage'),
  ),
  list(
    '/profiles',
    lazyRouteComponent(() => import('../profile/profile-pages.tsx'), 'ProfileListPage'),
  ),
  page(
    '/profiles/$name',
    lazyRouteComponent(() => import('../profile/profile-pages.tsx'), 'ProfilePage'),
  ),
  list(
    '/instance-types',
    lazyRouteComponent(() => import('../instance-type/instance-type-pages.tsx'), 'InstanceTypeListPage'),
  ),
  page(
    '/instance-types/$name',
    lazyRouteComponent(() => import('../instance-type/instance-type-pages.tsx'), 'InstanceTypePage'),
  ),
  list(
    '/groups',
    lazyRouteComponent(() => import('../group/group-pages.tsx'), 'GroupListPage'),
  ),
  page(
    '/groups/$name',
    lazyRouteComponent(() => import('../group/group-pages.tsx'), 'GroupPage'),
  ),
  page('/nodes/$node', nodePage),
  page('/nodes/$node/$tab', nodePage),
  page(
    '/tokens',
    lazyRouteComponent(() => import('../token/token-list-page.tsx'), 'TokenListPage'),
  ),
  list(
    '/tasks',
    lazyRouteComponent(() => import('../task/task-list-page.tsx'), 'TaskListPage'),
  ),
  page(
    '/tasks/$task',
    lazyRouteComponent(() => import('../task/task-page.tsx'), 'TaskPage'),
  ),
  list(
    '/events',
    lazyRouteComponent(() => import('../event/event-list-page.tsx'), 'EventListPage'),
  ),
  page(
    '/settings',
    lazyRouteComponent(() => import('../settings/settings-page.tsx'), 'SettingsPage'),
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
